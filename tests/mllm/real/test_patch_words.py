"""Real features and a real vocabulary: projectors that learned the words of patches name what unseen photographs show.

Features of EfficientNet-Lite0, which was trained on ImageNet; words as SmolLM2 embeds them; 26 photographs of COCO with their
masks. Photographs are divided into four parts; those of a part are judged by projectors that learned from the others alone, so
that every photograph is judged, and none by a projector that has seen it. The settings were chosen within halves of the
photographs (docs/alignment.md). ``make test-real`` runs it: it downloads 110 MB and takes minutes.
"""

import statistics

import pytest
import torch

from pargo_mllm.alignment.loss import contrastive_patch_loss
from pargo_mllm.alignment.pursuit import matching_pursuit
from pargo_mllm.alignment.vocabulary import Vocabulary, embedding_mean
from pargo_mllm.alignment.words import forms, spelled
from pargo_mllm.cli import main
from pargo_mllm.data.sources.region_file import RegionFile
from pargo_mllm.pretrained import load_language_model
from tests.mllm.made.efficientnet import EfficientNetLite0
from tests.mllm.made.patch_words import Words, fresh, judge, learned, views_of
from tests.mllm.made.real_parts import efficientnet_lite0, smollm2

pytestmark = pytest.mark.real

PARTS, SEEDS, CROPS = 4, (0, 1, 2), 12
# a first try at the linear map, on other photographs of COCO: 36 % of patches, 22 to 26 % averaged over classes
FIRST_TRY = {"accuracy": 0.36, "class_mean": 0.26}
SETTINGS = {
    "linear": {"steps": 100, "batch": 8, "rate": 1e-3, "decay": 0.5},
    "pargo": {"steps": 80, "batch": 8, "rate": 2e-3, "decay": 0.5},
}


@pytest.fixture(scope="module")
def language_model():
    """(input embeddings ``[49152, 576]``, tokenizer)."""
    folder, name = smollm2()
    model, tokenizer = load_language_model(str(folder), name)
    return model.get_input_embeddings().weight.detach(), tokenizer


@pytest.fixture(scope="module")
def photographs(shared, root):
    """(files, what is where in them), by the command that writes labels of patches."""
    folder = shared / "data" / "coco_sample"
    words = ["data", "patches", folder, "--instances", folder / "instances.json", "--out", root / "regions.jsonl"]
    assert main([str(word) for word in words]) == 0
    return sorted((folder / "images").iterdir()), RegionFile(root / "regions.jsonl")


@pytest.fixture(scope="module")
def words(language_model, photographs):
    embeddings, tokenizer = language_model
    spelling = spelled(tokenizer, photographs[1].names)
    assert (len(spelling.ids), spelling.missing) == (51, {})
    return Words(tuple(spelling.ids), spelling.vectors(embeddings), embedding_mean(embeddings))


@pytest.fixture(scope="module")
def views(photographs, words):
    return views_of(*photographs, words.names, EfficientNetLite0.of(efficientnet_lite0()), CROPS)


@pytest.fixture(scope="module")
def trained(views, words):
    """Of a type and a seed: scores of all photographs, each by a projector that has not seen it, their tokens and labels."""
    known = {}

    def of(kind, seed):
        if (kind, seed) not in known:
            photos = int(views.photo.max()) + 1
            drawn = torch.randperm(photos, generator=torch.Generator().manual_seed(0)).tolist()
            scoring, said, true = None, {}, {}
            for part in range(PARTS):
                held_out, others = drawn[part::PARTS], [photo for place, photo in enumerate(drawn) if place % PARTS != part]
                projector = fresh(kind, words, seed)
                learned(projector, views, others, words, contrastive_patch_loss, seed, **SETTINGS[kind])
                scoring, tokens, labels = judge(projector, views, others, held_out, words, scoring)
                said |= dict(zip(held_out, tokens, strict=True))
                true |= dict(zip(held_out, labels, strict=True))
            stacked = (torch.stack([found[photo] for photo in range(photos)]) for found in (said, true))
            known[kind, seed] = scoring.scores(), *stacked
        return known[kind, seed]

    return of


@pytest.mark.parametrize("kind", SETTINGS)
def test_words_of_patches_name_what_photographs_show_that_were_never_seen(kind, views, words, trained):
    photos = sorted(set(views.photo.tolist()))
    before = [judge(fresh(kind, words, seed), views, photos, photos, words)[0].scores() for seed in SEEDS]
    after = [trained(kind, seed)[0] for seed in SEEDS]
    assert after[0].tokens > 400
    assert len(after[0].by_label) > 15
    for figure, floor in FIRST_TRY.items():
        values = [getattr(scores, figure) for scores in after]
        print(f"{kind}: {figure} {statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f} ({values})")
        assert statistics.fmean(values) > floor
    for untrained, scores in zip(before, after, strict=True):
        assert scores.accuracy > scores.most_frequent > untrained.accuracy
        assert scores.class_mean > 5 * scores.chance
        assert scores.alignment > 0.25 > untrained.alignment


@pytest.mark.parametrize("kind", SETTINGS)
def test_words_of_the_whole_vocabulary_name_them_too(kind, language_model, views, words, trained):
    embeddings, tokenizer = language_model
    texts = [text.strip() for text in tokenizer.batch_decode([[row] for row in range(len(embeddings))])]
    vocabulary = Vocabulary(embeddings, torch.tensor([text.isalpha() for text in texts]), tuple(texts))
    # of a name that is one token, what counts as saying it
    said_by = {place: {form.lower() for form in forms(name)} for place, name in enumerate(words.names) if name in texts}
    assert len(said_by) > 30

    def share(tokens, labels):
        rows, places = (labels > 0).flatten(0, 1).nonzero().T
        found = matching_pursuit(tokens.flatten(0, 1)[rows], vocabulary).words.tolist()
        said: dict[int, bool] = {}
        for row, place, own in zip(rows.tolist(), places.tolist(), found, strict=True):
            if place in said_by:
                said[row] = said.get(row, False) or bool(said_by[place] & {texts[word].lower() for word in own})
        return statistics.fmean(said.values())

    _, tokens, labels = trained(kind, 0)
    others = tokens.roll(1, dims=0)
    named, by_chance = share(tokens, labels), share(others, labels)
    print(
        f"{kind}: among the five words of a token is its object's: {named:.3f}; of another photograph's token {by_chance:.3f}"
    )
    assert named > by_chance + 0.2
    assert named > 0.4
