"""From conversations to ids, labels and packed rows."""

import pytest
import torch

from pargo_mllm import ParGoProcessor
from pargo_mllm.data.corpus import about_image
from pargo_mllm.data.feeding.conversations import ConversationEncoder, EncodedConversation
from pargo_mllm.data.feeding.packing import IGNORED, pack, pad_packed
from tests.mllm.made.items import encoded

PAIRS = [("what shape", "circle"), ("which colour is at the top", "red"), ("what is at the top", "big blue square")]


def test_one_placeholder_becomes_as_many_tokens_as_the_projector_gives(processor, pictures):
    batch = processor(text=["<image> what <image> shape"], images=[pictures[:2]], return_tensors="pt")
    image, words = processor.image_token_id, processor.tokenizer.convert_tokens_to_ids
    assert batch["input_ids"].tolist() == [[image] * 10 + [words("what")] + [image] * 10 + [words("shape")]]
    assert batch["pixel_values"].shape == (2, 3, 28, 28)


@pytest.mark.parametrize(
    ("text", "counts", "said"),
    [
        (["<image> what", "what"], (1, 1), r"sample 1 has 0 <image> in its text and 1 pictures.*'what'"),
        (["<image> what", "<image> <image>"], (1, 1), r"sample 1 has 2 <image> in its text and 1 pictures"),
        (["<image> what"], (1, 1), r"lists for 2 samples and text 1"),
        (["<image> what", "<image>"], 1, r"2 <image> \(sample 0: 1, sample 1: 1\) for 1 pictures"),
        (["<image> what"], 0, r"1 <image> \(sample 0: 1\) for 0 pictures"),
    ],
)
def test_texts_and_pictures_that_do_not_match_are_refused_by_sample(processor, pictures, text, counts, said):
    if isinstance(counts, tuple):
        images = [pictures[:count] for count in counts]
    else:
        images = pictures[:counts] or None
    with pytest.raises(ValueError, match=said):
        processor(text=text, images=images, return_tensors="pt")


def test_truncation_never_cuts_a_picture_silently(processor, pictures):
    with pytest.raises(ValueError, match=r"(?i)image"):
        processor(text=["<image> what shape"], images=[pictures[:1]], truncation=True, max_length=6, return_tensors="pt")


def test_an_unknown_image_token_is_refused(processor):
    with pytest.raises(ValueError, match=r"image_token='<picture>' is not one token.*add_special_tokens"):
        ParGoProcessor(processor.image_processor, processor.tokenizer, num_image_tokens=4, image_token="<picture>")
    with pytest.raises(ValueError, match=r"num_image_tokens=0 must be at least 1"):
        ParGoProcessor(processor.image_processor, processor.tokenizer, num_image_tokens=0)


def test_encoding_is_what_the_chat_template_gives(processor, pictures):
    for (prompt, answer), one in zip(PAIRS, encoded(processor, PAIRS), strict=True):
        messages = about_image(prompt, answer)
        messages[0]["content"][0] = {"type": "image", "image": pictures[0]}
        expected = processor.apply_chat_template(
            [messages], tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
        )
        assert list(one.input_ids) == expected["input_ids"][0].tolist()
        assert list(one.is_answer) == [bool(said) for said in torch.as_tensor(expected["assistant_masks"])[0].tolist()]


def test_labels_are_the_answer_and_its_end_and_nothing_else(processor):
    for (_, answer), one in zip(PAIRS, encoded(processor, PAIRS), strict=True):
        labels = pack([one], processor.image_token_id).labels.tolist()
        assert processor.tokenizer.decode([label for label in labels if label != IGNORED]) == f"{answer} </s>"


def test_every_answer_of_a_long_conversation_is_a_label(processor):
    messages = [
        turn
        for prompt, answer in PAIRS
        for turn in ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    ]
    batch = processor.tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [token for token, mask in zip(batch["input_ids"], batch["assistant_masks"], strict=True) if mask]
    assert processor.tokenizer.decode(said) == "circle </s> red </s> big blue square </s>"


def test_the_prompt_for_generation_is_what_stands_before_the_answer(processor):
    (prompt, answer), one = PAIRS[0], encoded(processor, PAIRS[:1])[0]
    text = processor.apply_chat_template(about_image(prompt, answer)[:1], add_generation_prompt=True)
    ids = processor.tokenizer(text.replace("<image>", "<image>" * 10), add_special_tokens=False)["input_ids"]
    assert ids == [token for token, said in zip(one.input_ids, one.is_answer, strict=True) if not said]


def test_a_template_without_marks_is_refused(processor):
    plain = ParGoProcessor(
        processor.image_processor, processor.tokenizer, num_image_tokens=10, chat_template="{{ messages[0]['content'] }}"
    )
    with pytest.raises(ValueError, match=r"puts '' where the assistant says 'The left one.' in turn 1.*endgeneration"):
        ConversationEncoder(plain)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_packed_questions_do_not_see_each_other(make_model, processor, implementation):
    model = make_model()
    model.set_attn_implementation(implementation)
    conversations, features = encoded(processor, PAIRS), torch.randn(2, 16, 24)
    image = processor.image_token_id
    # the second row is shorter: it is padded
    rows = [pack(conversations, image), pack(conversations[1:2], image)]
    batch = pad_packed(rows, processor.tokenizer.pad_token_id)
    labels = batch.pop("labels")
    packed = model(**batch, vision_features=features).logits
    prefix = int((rows[0].segments == 0).sum())
    for row, asked in enumerate((conversations, conversations[1:2])):
        for segment, conversation in enumerate(asked, start=1):
            alone = model(input_ids=torch.tensor([conversation.input_ids]), vision_features=features[row : row + 1]).logits[0]
            where = (rows[row].segments == segment).nonzero().flatten()
            torch.testing.assert_close(packed[row, where], alone[prefix:], rtol=0, atol=2e-5)
            assert batch["position_ids"][row, where].tolist() == list(range(prefix, len(conversation.input_ids)))
            # the first answer token is predicted by the last token of the same question
            said = [token for token, answer in zip(conversation.input_ids, conversation.is_answer, strict=True) if answer]
            assert labels[row, where][labels[row, where] != IGNORED].tolist() == said
    assert (labels[1, len(rows[1].labels) :] == IGNORED).all()
    assert torch.isfinite(packed).all()


def test_the_loss_of_a_packed_row_is_the_mean_over_its_answers(make_model, processor):
    model, conversations, features = make_model(), encoded(processor, PAIRS), torch.randn(1, 16, 24)
    batch = pad_packed([pack(conversations, processor.image_token_id)], processor.tokenizer.pad_token_id)
    packed, total, count = model(**batch, vision_features=features).loss.item(), 0.0, 0
    for conversation in conversations:
        labels = [t if said else IGNORED for t, said in zip(conversation.input_ids, conversation.is_answer, strict=True)]
        alone = model(input_ids=torch.tensor([conversation.input_ids]), labels=torch.tensor([labels]), vision_features=features)
        total += alone.loss.item() * sum(conversation.is_answer)
        count += sum(conversation.is_answer)
    assert packed == pytest.approx(total / count, rel=1e-5)


def test_packing_refuses_what_cannot_share_a_picture(processor):
    one = encoded(processor, PAIRS[:1])[0]
    image = processor.image_token_id
    with pytest.raises(ValueError, match=r"no conversations to pack"):
        pack([], image)
    without = EncodedConversation((1, 2), (False, True))
    with pytest.raises(ValueError, match=r"conversation 1 begins otherwise"):
        pack([one, without], image)
    other = EncodedConversation((99, *one.input_ids), (False, *one.is_answer))
    with pytest.raises(ValueError, match=r"conversation 1 begins otherwise.*put the picture before the question"):
        pack([one, other], image)


def test_a_language_model_that_takes_no_block_mask_is_named(make_model, processor):
    model = make_model()
    model.config.text_config._attn_implementation = "flex_attention"
    batch = pad_packed([pack(encoded(processor, PAIRS), processor.image_token_id)], processor.tokenizer.pad_token_id)
    with pytest.raises(ValueError, match=r"'flex_attention'.*4-D mask.*'sdpa' or 'eager'"):
        model(**batch, vision_features=torch.randn(1, 16, 24))
