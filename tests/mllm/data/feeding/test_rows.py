"""Rows against every conversation run alone: nothing leaks, no loss and no gradient changes, in any layout."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AttentionInterface
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from pargo_mllm import ParGoProcessor
from pargo_mllm.data.corpus import Example
from pargo_mllm.data.feeding.collation import RowCollator, first_fit_decreasing
from pargo_mllm.data.feeding.conversations import ConversationEncoder
from pargo_mllm.data.feeding.encoding import ExampleEncoder
from pargo_mllm.data.feeding.packing import IGNORED
from tests.mllm.made.miniature_families import FAMILY_NAMES, make_family

IMAGE = {"type": "image"}
FORMS = [("shared", True), ("shared", False), ("documents", True), ("documents", False)]


def varlen_attention(module, query, key, value, attention_mask, scaling, position_ids, **kwargs):
    """What flash attention computes of one packed row: causal inside the documents that transformers finds in position_ids."""
    assert attention_mask is None
    assert query.shape[0] == 1
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    (bounds, _), _ = prepare_fa_kwargs_from_position_ids(position_ids)
    lengths = bounds.diff().tolist()
    out = [
        torch.nn.functional.scaled_dot_product_attention(*of_one, is_causal=True, scale=scaling)
        for of_one in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return torch.cat(out, dim=2).transpose(1, 2), None


AttentionInterface.register("varlen", varlen_attention)


def user(*parts):
    return {"role": "user", "content": [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]}


def assistant(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def picture(seed, size=(40, 30)):
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8).numpy())


def make_examples(size=(40, 30)):
    """Conversations that share a picture, text alone, several pictures anywhere, texts that share nothing."""
    opens = [lambda seed=seed: picture(seed, size) for seed in range(6)]
    return [
        Example("text", ([user("what shape"), assistant("circle")],)),
        Example(
            "shared",
            (
                [user(IMAGE, "which"), assistant("red"), user("what shape"), assistant("big circle")],
                [user(IMAGE, "what is at the top"), assistant("square")],
                [user(IMAGE, "which"), assistant("red")],
            ),
            tuple(opens[:1]),
        ),
        Example(
            "several",
            ([user("which", IMAGE), assistant("one"), user(IMAGE, "shape", IMAGE), assistant("two three")],),
            tuple(opens[1:4]),
        ),
        Example("texts", ([user("which"), assistant("green")], [user("which"), assistant("yes no")])),
        Example("pair", tuple([user(IMAGE, IMAGE, text), assistant("one")] for text in ("what", "which")), tuple(opens[4:])),
        Example("told", ([user(IMAGE), assistant("red")], [user(IMAGE), assistant("blue")]), tuple(opens[:1])),
    ]


def each_alone(model, processor, examples, template="chat"):
    """Loss and gradients of one forward pass a conversation, weighted by labels."""
    encoder = ConversationEncoder(processor, template)
    total, count = 0.0, 0
    for example in examples:
        pixels, tile_counts = (
            processor.encode_pictures([opened() for opened in example.pictures]) if example.pictures else (None, None)
        )
        counts = [] if tile_counts is None else tile_counts.tolist()
        for encoded in encoder.encode_conversations(example.conversations, counts):
            ids, said = torch.tensor([encoded.input_ids]), torch.tensor(encoded.is_answer)
            logits = model(input_ids=ids, pixel_values=pixels, tile_counts=tile_counts, use_cache=False).logits[0]
            targets = ids[0, 1:][said[1:]]
            total = total - logits[:-1][said[1:]].log_softmax(-1).gather(1, targets[:, None]).sum()
            count += len(targets)
    model.zero_grad()
    (total / count).backward()
    return (total / count).item(), gradients(model)


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def collated(processor, examples, layout, pack, template="chat", row_length=200):
    encoder = ExampleEncoder(processor, template=template)
    collate = RowCollator(processor.tokenizer.pad_token_id, pack, row_length if layout == "shared" else None, layout)
    batch = collate([encoder(example) for example in examples])
    assert batch.pop("contents").skipped == ()
    return batch


def assert_equal_training(model, batch, expected_loss, expected_gradients):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss, rel=1e-6)
    found = gradients(model)
    assert found.keys() == expected_gradients.keys()
    scale = torch.stack([gradient.norm() for gradient in expected_gradients.values()]).norm()
    for name, gradient in expected_gradients.items():
        assert (found[name] - gradient).norm() <= 1e-6 * scale, name


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "varlen"])
@pytest.mark.parametrize("template", ["chat", "plain"])
def test_rows_train_as_each_conversation_alone(make_model, processor, template, implementation):
    model, examples = make_model(), make_examples()
    loss, expected = each_alone(model, processor, examples, template)
    model.set_attn_implementation({"text_config": implementation})
    for layout, pack in FORMS if implementation != "varlen" else [("documents", True)]:
        assert_equal_training(model, collated(processor, examples, layout, pack, template), loss, expected)


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_rows_train_alike_in_every_family(name):
    model, processor = make_family(name)
    examples = make_examples()[1:4]
    for template in ("chat", "plain"):
        loss, expected = each_alone(model, processor, examples, template)
        for layout in ("shared", "documents"):
            batch = collated(processor, examples, layout, True, template, row_length=500)
            # nothing stands in front of a document, from which its first token could be predicted
            assert (batch["labels"][batch["position_ids"] == 0] == IGNORED).all()
            assert_equal_training(model, batch, loss, expected)


@pytest.mark.parametrize("kind", ["linear", "pargo"])
def test_rows_of_tiles_train_as_each_conversation_alone(make_model, processor, kind):
    model = make_model(projector_type=kind)
    options = {"num_image_tokens": model.config.num_image_tokens, "max_tiles": 4, "tokens_per_tile": kind == "linear"}
    tiler = ParGoProcessor(processor.image_processor, processor.tokenizer, **options)
    small, large = make_examples((20, 20))[2:], make_examples((56, 50))[1:3]
    examples = [*small, *large]
    loss, expected = each_alone(model, tiler, examples)
    for layout, pack in FORMS:
        batch = collated(tiler, examples, layout, pack, row_length=400)
        assert sorted(batch["tile_counts"].tolist()) == [1] * 6 + [4] * 4
        assert_equal_training(model, batch, loss, expected)


def reworded(examples, number, conversation):
    """The examples with other words, as many, in one conversation of one of them."""

    def part(part):
        return part if part == IMAGE else {**part, "text": " ".join("small" for _ in part["text"].split())}

    one = examples[number]
    changed = [{**message, "content": [*map(part, message["content"])]} for message in one.conversations[conversation]]
    conversations = [changed if index == conversation else other for index, other in enumerate(one.conversations)]
    return [*examples[:number], Example(one.name, tuple(conversations), one.pictures), *examples[number + 1 :]]


@torch.no_grad()
@pytest.mark.parametrize(
    ("layout", "implementation"),
    [("shared", "eager"), ("shared", "sdpa"), ("documents", "eager"), ("documents", "sdpa"), ("documents", "varlen")],
)
def test_nothing_leaks(make_model, processor, layout, implementation):
    """Other words in one conversation, or another picture, change no bit of a logit outside of it."""
    model, examples = make_model(), make_examples()
    model.set_attn_implementation({"text_config": implementation})
    batch = collated(processor, examples, layout, True, row_length=1000)
    (ids,), (positions,) = batch["input_ids"], batch["position_ids"]
    (before,) = model(**batch).logits
    breaks = [*(positions.diff() != 1).nonzero().flatten().add(1).tolist(), len(ids)]
    begins = [*(positions == 0).nonzero().flatten().tolist(), len(ids)]
    for number, example in enumerate(examples):
        for conversation in range(len(example.conversations)):
            other = collated(processor, reworded(examples, number, conversation), layout, True, row_length=1000)
            changed = (other["input_ids"][0] != ids).nonzero().flatten().tolist()
            may = torch.zeros(len(ids), dtype=torch.bool)
            may[changed[0] : next(end for end in breaks if end > changed[0])] = True
            assert may[changed].all()
            (after,) = model(**other).logits
            assert torch.equal(after[~may], before[~may]), (example.name, conversation)
            assert not torch.isclose(after[may], before[may]).all(-1).any(), "every token of the conversation notices"
    runs = (ids == processor.image_token_id).nonzero().flatten()[:: processor.num_image_tokens].tolist()
    shows = batch.get("picture_index", torch.arange(len(runs))).tolist()
    for changed in range(len(batch["pixel_values"])):
        pixels = batch["pixel_values"].clone()
        pixels[changed] *= -1
        (after,) = model(**{**batch, "pixel_values": pixels}).logits
        may = torch.zeros(len(ids), dtype=torch.bool)
        for run, shown in zip(runs, shows, strict=True):
            if shown == changed:
                may[run : next(end for end in begins if end > run)] = True
        assert torch.equal(after[~may], before[~may])
        assert not torch.isclose(after[may], before[may]).all(-1).any()


@pytest.mark.parametrize(
    ("layout", "template", "shown"), [("shared", "chat", 7), ("shared", "plain", 12), ("documents", "chat", 12)]
)
def test_a_picture_shown_again_is_encoded_and_projected_once(make_model, processor, layout, template, shown):
    model, seen = make_model(), []
    model.model.vision_tower.register_forward_hook(lambda module, args, out: seen.append(len(out.last_hidden_state)))
    model.model.projector.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    batch = collated(processor, make_examples(), layout, True, template)
    model(**batch)
    # one of "shared", three of "several", two of "pair" and one of "told"
    assert seen == [7, 7]
    assert (batch["input_ids"] == processor.image_token_id).sum() == 10 * shown


@torch.no_grad()
def test_prompts_show_pictures_again_when_they_generate(make_model, processor):
    model, pixels = make_model(), torch.randn(2, 3, 28, 28)
    prompts = processor(text=["<image> what <image>", "<image> which"], images=[[picture(0)] * 2, [picture(1)]], padding=True)
    ids = {name: torch.tensor(prompts[name]) for name in ("input_ids", "attention_mask")}
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    for beams in (1, 2):
        again = model.generate(**ids, pixel_values=pixels, picture_index=torch.tensor([1, 0, 1]), num_beams=beams, **settings)
        copied = model.generate(**ids, pixel_values=pixels[[1, 0, 1]], num_beams=beams, **settings)
        assert torch.equal(again, copied)


def test_micro_batches_without_pictures_have_none(processor):
    examples = [example for example in make_examples() if not example.pictures]
    for layout, pack in FORMS:
        batch = collated(processor, examples, layout, pack)
        assert batch.keys() <= {"input_ids", "position_ids", "labels", "attention_mask"}


@pytest.mark.parametrize(("layout", "pack"), FORMS)
def test_skipped_items_change_nothing_and_are_named(make_model, processor, layout, pack):
    model, examples = make_model(), make_examples()[:3]
    loss, expected = each_alone(model, processor, examples)
    encoder = ExampleEncoder(processor)
    skipped = [encoder.skip("a", "torn"), encoder.skip("b", "lost")]
    items = [skipped[0], *(encoder(example) for example in examples), skipped[1]]
    collate = RowCollator(processor.tokenizer.pad_token_id, pack, 200, layout)
    batch = collate(items)
    assert batch.pop("contents").skipped == (("a", "torn"), ("b", "lost"))
    assert_equal_training(model, batch, loss, expected)
    nothing = collate(skipped)
    nothing.pop("contents")
    model.zero_grad()
    loss = model(**nothing).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all((gradient == 0).all() for gradient in gradients(model).values())


def test_kept_features_come_in_the_order_of_the_rows(make_model, processor):
    model, examples = make_model(), make_examples()
    _, expected = each_alone(model, processor, examples)

    @torch.no_grad()
    def features(opened):
        return model.model.get_vision_features(processor.encode_pictures([opened()])[0])

    def encoded(example):
        return replace(example, features=tuple(partial(features, opened) for opened in example.pictures))

    encoder = ExampleEncoder(processor)
    batch = RowCollator(processor.tokenizer.pad_token_id, True, 200)([encoder(encoded(example)) for example in examples])
    assert "pixel_values" not in batch
    assert batch.pop("contents").encoded
    model.zero_grad()
    model(**batch).loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-6 * gradient.norm().item() + 1e-7, msg=name)


def test_first_fit_decreasing_by_hand():
    assert first_fit_decreasing([2, 5, 2, 3, 4], 8) == [[1, 3], [4, 0, 2]]
    assert first_fit_decreasing([4, 4, 4, 4], 8) == [[0, 1], [2, 3]], "of equals, the earlier first"


@given(lengths=st.lists(st.integers(1, 20), max_size=30), spare=st.integers(0, 20))
def test_rows_hold_everything_once_and_no_row_is_too_long(lengths, spare):
    capacity = max(lengths, default=1) + spare
    rows = first_fit_decreasing(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    filled = [sum(lengths[index] for index in row) for row in rows]
    assert all(0 < length <= capacity for length in filled)
    # what stands in a later row fitted into no earlier one
    assert all(lengths[rows[later][-1]] + filled[row] > capacity for later in range(len(rows)) for row in range(later))


def test_packed_rows_are_short_and_padded_to_the_longest(processor):
    batch = collated(processor, make_examples(), "shared", True, row_length=90)
    lengths = [len(ExampleEncoder(processor)(example)["packed"]) for example in make_examples()]
    rows = first_fit_decreasing(lengths, 90)
    assert 1 < len(rows) < len(lengths)
    assert batch["input_ids"].shape == (len(rows), max(sum(lengths[index] for index in row) for row in rows))
    documents = collated(processor, make_examples(), "documents", True)
    assert documents["input_ids"].shape[0] == 1
    assert "attention_mask" not in documents
    assert (documents["position_ids"] == 0).sum() == 11, "conversations"
    padded = collated(processor, make_examples(), "documents", False)
    assert padded["attention_mask"].shape == padded["input_ids"].shape
    assert padded["attention_mask"].sum() == documents["input_ids"].numel()


def test_what_cannot_be_collated_is_refused(processor):
    with pytest.raises(ValueError, match=r"layout='rows' is unknown; it must be one of 'shared', 'documents'"):
        RowCollator(0, True, 10, "rows")
    with pytest.raises(ValueError, match=r"row_length is missing"):
        RowCollator(0, True)
    with pytest.raises(ValueError, match=r"shared has \d+ tokens and row_length=20; .*max_length of at most row_length"):
        collated(processor, make_examples()[:2], "shared", True, row_length=20)
