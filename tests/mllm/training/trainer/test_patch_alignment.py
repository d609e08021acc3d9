"""The patch loss in training: equal to the loss written out by hand, however a step is divided."""

from dataclasses import replace

import pytest
import torch
from tqdm.auto import tqdm

from pargo_mllm import ParGoProcessor
from pargo_mllm.alignment.loss import CONTRASTIVE, COSINE
from pargo_mllm.alignment.patch_labels import PatchLabeller
from pargo_mllm.alignment.vocabulary import embedding_mean
from pargo_mllm.data.feeding.collation import RowCollator
from pargo_mllm.data.feeding.encoding import ExampleEncoder
from pargo_mllm.data.regions import Region
from pargo_mllm.training.stages import stage1
from pargo_mllm.training.trainer.patch_alignment import PatchAlignment
from pargo_mllm.training.trainer.settings import StageSettings
from pargo_mllm.training.trainer.stage_trainer import Stage
from tests.mllm.made.labelled_pictures import NAMES, labelled_examples, patch_loss_by_hand

STEP = StageSettings(
    steps=1, batch_size=6, learning_rate=0.5, adam_epsilon=1.0, bf16=False, save_steps=None, report_to="none", warmup=0.0
)
# at once, in a row, layout
DIVISIONS = ((6, False, "shared"), (1, False, "documents"), (2, True, "shared"), (3, True, "documents"))
KINDS = {
    "a token a patch": ("linear", "auto", False, CONTRASTIVE),
    "a token a patch, near its words": ("linear", "auto", False, COSINE),
    "partial tokens": ("pargo", "auto", True, CONTRASTIVE),
    "partial tokens, and global ones by their attention": ("pargo", "all", False, COSINE),
    "the attention of a resampler": ("resampler", "auto", False, CONTRASTIVE),
}


def tiling(processor, model):
    options = {"max_tiles": 4, "tokens_per_tile": not model.config.projector_config.reads_tiles_together}
    return ParGoProcessor(
        processor.image_processor, processor.tokenizer, num_image_tokens=model.config.num_image_tokens, **options
    )


def trained(model, processor, items, folder, label, division=DIVISIONS[0], settings=STEP, weight=2.0, **added):
    """The log of a stage over items with labels of ``label``, and the projector's weights behind it."""
    at_once, packed, layout = division
    embeddings = model.get_input_embeddings().weight.detach()
    read = (label.read, label.threshold, label.hard, bool(label.choices))
    patches = PatchAlignment(embeddings, embedding_mean(embeddings), 1.0, weight, 0.0, settings.steps, *read)
    collate = RowCollator(processor.tokenizer.pad_token_id, packed, 500, layout, label.choices)
    settings = replace(settings, micro_batch_size=at_once, **added)
    log = stage1(model, processor, Stage(items, collate, settings, folder, patches=patches), folder, say=lambda line: None)
    return log, {name: tensor.clone() for name, tensor in model.model.projector.state_dict().items()}


def encoded(processor, label, examples):
    encoder = ExampleEncoder(processor, 500, label=label)
    items = [encoder(example) for example in examples]
    assert not [item["skipped"] for item in items if "skipped" in item]
    return items


def attended(model):
    """What the tokens of each image attend to, from the attention's own arithmetic on whole pictures, tile sets one by one."""

    def shares(pixels, tiles):
        base = model.model
        features = base.get_vision_features(pixels)
        if base.config.projector_config.reads_tiles_together:
            features = features.flatten(0, 1)[None]
        projector, cross = base.projector, []
        if hasattr(projector, "last_hidden_state"):
            projector.last_hidden_state(features, None, cross)
            found = torch.stack(cross).mean((0, 2))
        else:
            hooks = [
                layer.attention.register_forward_pre_hook(lambda module, given: (*given[:2], cross))
                for layer in projector.layers
            ]
            projector(features)
            for hook in hooks:
                hook.remove()
            found = torch.stack(cross).mean((0, 2))[..., : features.shape[1]]
        return [own / own.sum(-1, keepdim=True) for own in found.double()]

    return shares


@pytest.mark.parametrize(
    "kind", [kind if kind.startswith("partial") else pytest.param(kind, marks=pytest.mark.long) for kind in KINDS]
)
def test_it_is_the_loss_by_hand_however_a_step_is_divided(kind, make_model, processor, tmp_path):
    projector, tokens, hard, form = KINDS[kind]
    options = {"projector_type": projector, "token_order": "tiles"} if projector == "pargo" else {"projector_type": projector}
    examples = labelled_examples(size=(24, 20), large=(56, 56))
    names = NAMES if form == CONTRASTIVE else None
    ends, first = [], None
    # two of them each, but for one kind
    for division in DIVISIONS if kind == "a token a patch" else DIVISIONS[:3:2] if label_by_attention(kind) else DIVISIONS[::3]:
        model = make_model(**options)
        tiles = tiling(processor, model)
        label = PatchLabeller(tiles, model.config, tokens, hard, 0.3 if label_by_attention(kind) else 0.5, names or ())
        if first is None:
            shares = attended(model) if label_by_attention(kind) else None
            by_hand = patch_loss_by_hand(model, tiles, examples, label.threshold, hard, shares, names)
            assert len(by_hand) > 10
        items = encoded(tiles, label, examples)
        checkpointed = division in DIVISIONS[2:]
        log, end = trained(model, tiles, items, tmp_path, label, division, gradient_checkpointing=checkpointed)
        first = first or log[0]
        assert log[0]["patch_loss"] == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)
        assert log[0]["caption_loss"] == pytest.approx(first["caption_loss"], rel=1e-5)
        counted = len(by_hand) if label.read == 0 else sum(items_counted(items))
        assert log[0]["loss"] == pytest.approx(log[0]["caption_loss"] + 2.0 * sum(by_hand) / counted, rel=1e-5)
        ends.append(end)
    for end in ends[1:]:
        for name, tensor in end.items():
            torch.testing.assert_close(tensor, ends[0][name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_step_without_labels_has_no_patch_loss_and_words_without_tokens_are_named_in_one_line(
    make_model, processor, tmp_path, monkeypatch
):
    """0 would read as a perfect one."""
    said = []
    monkeypatch.setattr(tqdm, "write", said.append)
    model = make_model()
    label = PatchLabeller(processor, model.config)
    unheard = tuple(Region((f"zebra {number}",), (0.0, 0.0, 1.0, 1.0)) for number in range(7))
    examples = [replace(labelled_examples()[0], regions=(lambda: unheard,))]
    items = encoded(processor, label, examples) * STEP.batch_size
    log, _ = trained(model, processor, items, tmp_path, label)
    assert "patch_loss" not in log[0]
    assert log[0]["loss"] == log[0]["caption_loss"] > 0
    told = [line for line in said if "zebra" in line]
    assert told == [
        "7 no labels of patches, for the tokenizer has no tokens for them: zebra 0, zebra 1, zebra 2, zebra 3, zebra 4, …"
    ]


def label_by_attention(kind):
    return "attention" in kind


def items_counted(items):
    return [item["patches"].counted() for item in items if "patches" in item]
