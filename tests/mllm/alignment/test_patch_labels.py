"""Labels of an example's tokens, where data is read: which words, of which tokens, and what is opened for it."""

from dataclasses import replace

import pytest
import torch
from transformers import CLIPImageProcessorPil

from pargo_mllm import ParGoProcessor
from pargo_mllm.alignment.patch_labels import PatchLabeller
from pargo_mllm.alignment.words import mean_rows, word_ids, word_vectors
from pargo_mllm.data.corpus import OtherShape
from pargo_mllm.data.feeding.encoding import ExampleEncoder
from pargo_mllm.data.feeding.patch_labels import join_patch_labels
from pargo_mllm.data.regions import Region
from tests.mllm.made.labelled_pictures import HALVES, SEVERAL, labelled_examples
from tests.mllm.made.sizes import SIDE


def regions_are(*of_each):
    return tuple(lambda known=known: known for known in of_each)


@pytest.fixture
def halves():
    return replace(labelled_examples()[0], regions=regions_are(HALVES))


def test_a_partial_token_has_the_label_that_covers_its_slice(processor, make_config, halves):
    # two patches of four a row each, and the last two tokens read the whole picture
    label = PatchLabeller(processor, make_config())
    labels = label(halves, None, [1])
    assert labels.words == tuple(word_ids(processor.tokenizer, word) for word in ("red", "green"))
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 4 + [[0.0, 0.0]] * 2)
    assert torch.equal(labels.weights, expected[None])
    assert (labels.counted(), labels.coverage, label.local, label.read) == (8, None, 8, 0)


def test_labels_share_a_token_by_what_they_cover(processor, make_config, halves):
    upper = (Region(("circle",), (0.0, 0.0, 1.0, 0.15)), Region(("big",), (0.0, 0.0, 1.0, 0.2)))
    example = replace(halves, regions=regions_are(upper))
    # of the first row's patches, 0.6 and 0.8
    for hard, said in ((False, [0.6 / 1.4, 0.8 / 1.4]), (True, [1.0])):
        labels = PatchLabeller(processor, make_config(projector_type="linear"), hard=hard)(example, None, [1])
        torch.testing.assert_close(labels.weights[0, :4], torch.tensor([said] * 4))
        assert not labels.weights[0, 4:].any()
    strict = PatchLabeller(processor, make_config(projector_type="linear"), threshold=0.7)(example, None, [1])
    assert strict.words == (word_ids(processor.tokenizer, "big"),)


def test_a_picture_of_another_shape_than_its_labels_has_none_and_says_why(processor, make_config, halves):
    def refuse():
        raise OtherShape("half.jpg is square")

    label = PatchLabeller(processor, make_config())
    for regions, misfits in ((refuse, ("half.jpg is square",)), (lambda: None, ())):
        labels = label(replace(halves, regions=(regions,)), None, [1])
        assert (labels.counted(), labels.misfits) == (0, misfits)


def test_what_says_nothing_does_not_travel_and_a_word_in_several_pictures_is_there_once(processor, make_config):
    label = PatchLabeller(processor, make_config(projector_type="linear"))
    two, asked, nothing = (labelled_examples()[place] for place in (2, 5, 4))
    small = Region(("yes",), (0.0, 0.0, 0.1, 0.1))
    labels = label(replace(two, regions=regions_are((*SEVERAL, small), HALVES)), None, [1, 1])
    spelled = [word_ids(processor.tokenizer, word) for word in ("circle", "big", "red", "green")]
    assert list(labels.words) == spelled
    assert labels.unspelled == ("zebra",)
    # both pictures carry all labels of the example
    assert labels.weights.shape == (2, 16, 4)
    assert not labels.weights[0, :, 2:].any()
    assert not labels.weights[1, :, :2].any()
    again = label(replace(asked, regions=regions_are(HALVES)), None, [1])
    joined = join_patch_labels([label(nothing, None, [1]), labels, again])
    assert joined["labels"].tolist() == [[0, 0, 0, 0], [0, 1, 2, 3], [0, 1, 2, 3], [2, 3, 0, 0]]
    assert joined["counted"] == (joined["weights"].sum(-1) > 0).sum() == labels.counted() + 16
    table = torch.randn(len(processor.tokenizer), 8).bfloat16()
    vectors = mean_rows(table, joined["ids"], joined["starts"])
    assert torch.equal(vectors, torch.stack([table[list(word)].float().mean(0) for word in spelled]))
    assert torch.equal(vectors, word_vectors(table, spelled))


def test_attention_needs_the_coverage_of_every_patch(processor, make_config, halves):
    label = PatchLabeller(processor, make_config(projector_type="qformer"))
    labels = label(halves, None, [1])
    assert (label.local, label.read, labels.counted()) == (0, 10, 10)
    assert not labels.weights.any()
    assert torch.equal(labels.coverage[0].view(2, 4, 4)[:, 0], torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]))
    assert PatchLabeller(processor, make_config(), "all").read == 2
    assert PatchLabeller(processor, make_config(projector_type="c_abstractor", num_partial_tokens=2), "all").read == 0


@pytest.mark.filterwarnings("ignore:CLIPImageProcessor")
@pytest.mark.parametrize("crops", [False, True])
def test_pictures_whose_features_are_given_are_opened_for_their_size_alone(processor, make_config, crops):
    if crops:
        sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
        processor = ParGoProcessor(CLIPImageProcessorPil(**sizes), processor.tokenizer, num_image_tokens=10)
    example, opened = labelled_examples()[2], []

    def opening(load):
        opened.append(load)
        return load()

    given = tuple(lambda load=load: opening(load) for load in example.pictures)
    features = tuple(lambda: torch.zeros(1, 16, 24) for _ in given)
    encoder = ExampleEncoder(processor, 500, label=PatchLabeller(processor, make_config()))
    kept = encoder(replace(example, pictures=given, features=features))["patches"]
    assert len(opened) == (2 if crops else 0)
    computed = encoder(example)["patches"]
    assert kept.words == computed.words
    assert torch.equal(kept.weights, computed.weights)
