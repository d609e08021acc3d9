"""From pictures to pixels, and from conversations to ids, labels and packed rows."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor

from pargo_mllm import ParGoProcessor
from pargo_mllm.data.corpus import about_image
from pargo_mllm.data.feeding.conversations import ConversationEncoder, EncodedConversation
from pargo_mllm.data.feeding.packing import IGNORED, pack, pad_packed
from pargo_mllm.data.pictures import PictureError
from tests.mllm.made.items import encoded

PAIRS = [("what shape", "circle"), ("which colour is at the top", "red"), ("what is at the top", "big blue square")]


def test_one_placeholder_becomes_as_many_tokens_as_the_projector_gives(processor, pictures):
    batch = processor(text=["<image> what <image> shape"], images=[pictures[:2]], return_tensors="pt")
    image, words = processor.image_token_id, processor.tokenizer.convert_tokens_to_ids
    assert batch["input_ids"].tolist() == [[image] * 10 + [words("what")] + [image] * 10 + [words("shape")]]
    assert batch["pixel_values"].shape == (2, 3, 28, 28)


@pytest.mark.parametrize(("asked", "backend"), [({}, "pil"), ({"backend": "torchvision"}, "torchvision")])
def test_a_saved_processor_reads_pictures_by_pil_unless_asked_otherwise(processor, tmp_path, monkeypatch, asked, backend):
    # transformers takes torchvision's resizing where it is installed, whose pixels are others
    processor.save_pretrained(tmp_path)
    chosen, load = [], AutoImageProcessor.from_pretrained

    def spied(source, **kwargs):
        chosen.append(kwargs.get("backend"))
        return load(source, **kwargs)

    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", spied)
    for opening in (AutoProcessor, ParGoProcessor):
        opened = opening.from_pretrained(tmp_path, **asked)
        assert chosen[-1] == backend
        assert opened.num_image_tokens == processor.num_image_tokens
        if backend == "pil":
            assert type(opened.image_processor) is type(processor.image_processor)


@pytest.fixture
def turned(pictures, tmp_path):
    """A picture, and a file that holds it lying on its side, half of it transparent."""
    seen = pictures[1]
    stored = seen.transpose(Image.Transpose.ROTATE_90).convert("RGBA")
    stored.paste((0, 0, 0, 0), (0, 0, stored.width, stored.height // 2))
    exif = Image.Exif()
    # the first stored row is the right side of what is seen
    exif[274] = 6
    stored.save(tmp_path / "turned.png", exif=exif)
    seen = seen.copy()
    seen.paste("white", (seen.width // 2, 0, seen.width, seen.height))
    return seen, tmp_path / "turned.png"


def given_as(path):
    """The ways in which a user of transformers gives a picture."""
    content = path.read_bytes()
    text = base64.b64encode(content).decode()
    return {
        "path": path,
        "text": str(path),
        "bytes": content,
        "base64": text,
        "data": f"data:image/png;base64,{text}",
        "picture": Image.open(io.BytesIO(content)),
    }


@pytest.mark.parametrize("way", ["path", "text", "bytes", "base64", "data", "picture"])
def test_a_picture_is_seen_as_a_viewer_shows_it_however_it_is_given(processor, turned, way):
    seen, path = turned
    expected = processor.image_processor(seen, return_tensors="pt")["pixel_values"]
    given = given_as(path)[way]
    assert torch.equal(processor(text=["<image>"], images=[[given]], return_tensors="pt")["pixel_values"], expected)
    assert torch.equal(processor.encode_pictures([given])[0], expected)
    for part in ({"image": given}, {"path": given}, {"url": given}, {"base64": given}):
        messages = [{"role": "user", "content": [{"type": "image", **part}, {"type": "text", "text": "what shape"}]}]
        assert torch.equal(processor.prompts([messages])["pixel_values"], expected)
        batch = processor.apply_chat_template([messages], tokenize=True, return_dict=True, return_tensors="pt")
        assert torch.equal(batch["pixel_values"], expected)


def test_openais_part_is_read_as_transformers_reads_it(processor, turned):
    seen, path = turned
    url = given_as(path)["data"]
    for part in ({"url": url}, url):
        messages = [{"role": "user", "content": [{"type": "image_url", "image_url": part}, {"type": "text", "text": "what"}]}]
        batch = processor.prompts([messages])
        assert torch.equal(batch["pixel_values"], processor.image_processor(seen, return_tensors="pt")["pixel_values"])


@pytest.mark.parametrize("part", [{}, {"image": "a.png", "url": "b.png"}, {"path": None}])
def test_a_part_without_one_picture_is_refused(processor, part):
    messages = [{"role": "user", "content": [{"type": "image", **part}]}]
    with pytest.raises(
        PictureError, match=r"part of type image has \d pictures; it must have one, as image, path, url or base64"
    ):
        processor.prompts([messages])


def test_arrays_and_tensors_give_the_pixels_of_their_picture(processor, pictures):
    expected = processor(text=["<image>"] * 2, images=[[pictures[0]], [pictures[0]]], return_tensors="pt")["pixel_values"]
    pixels = np.asarray(pictures[0])
    first = torch.tensor(pixels).permute(2, 0, 1)
    for one in (pixels, pixels / 255, pixels.transpose(2, 0, 1), first, first / 255):
        assert torch.equal(processor(text=["<image>"] * 2, images=[one, one], return_tensors="pt")["pixel_values"], expected)
    for batch in (np.stack([pixels, pixels]), torch.stack([first, first])):
        assert torch.equal(processor(text=["<image>"] * 2, images=batch, return_tensors="pt")["pixel_values"], expected)
    with pytest.raises(PictureError, match=r"do_rescale=False.*leave do_rescale out"):
        processor(text=["<image>"], images=[first / 255], do_rescale=False)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.zeros((2, 8, 8, 5)), r"shape is \[8, 8, 5\]"),
        (np.zeros((0, 8, 8, 3)), r"shape is \[0, 8, 8, 3\]"),
        (torch.zeros(0, 3, 8, 8), r"shape is \[0, 3, 8, 8\]"),
        (np.zeros((1, 1, 8, 8, 3)), r"shape is \[1, 1, 8, 8, 3\]"),
        ([[np.zeros((2, 8, 8, 3))]], r"shape is \[2, 8, 8, 3\]"),
        ([[[np.zeros((8, 8, 3))]]], r"a picture is a list; give a file"),
    ],
    ids=range(6),
)
def test_what_is_no_batch_of_pictures_is_refused(processor, images, says):
    with pytest.raises(PictureError, match=says):
        processor(text=["<image>"], images=images)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 8, 8, 3), (0, 8, 8, 3), (2, 8, 8, 5)])
def test_a_part_of_a_message_is_one_picture(processor, shape):
    """Two in one part would have a single place in the text."""
    messages = [{"role": "user", "content": [{"type": "image", "image": np.zeros(shape)}, {"type": "text", "text": "what"}]}]
    with pytest.raises(PictureError, match=rf"shape is \{list(shape)}".replace("]", r"\]")):
        processor.prompts([messages])
    with pytest.raises(PictureError, match=rf"shape is \{list(shape)}".replace("]", r"\]")):
        processor.apply_chat_template([messages], tokenize=True, return_dict=True)


@pytest.mark.parametrize("images", [[[], []], [], ((), ())], ids=["lists", "none", "tuples"])
def test_samples_without_pictures_are_texts(processor, images):
    batch = processor(text=["what", "what shape"], images=images, padding=True, return_tensors="pt")
    alone = processor(text=["what", "what shape"], padding=True, return_tensors="pt")
    assert batch.keys() == alone.keys()
    assert torch.equal(batch["input_ids"], alone["input_ids"])
    with pytest.raises(ValueError, match=r"1 <image> \(sample 0: 0, sample 1: 1\) for 0 pictures"):
        processor(text=["what", "<image> shape"], images=images)


def test_a_sample_without_pictures_stands_beside_one_with(processor, pictures):
    batch = processor(text=["what", "<image> what"], images=[[], pictures[:1]], padding=True, return_tensors="pt")
    assert batch["pixel_values"].shape[0] == 1
    assert (batch["input_ids"] == processor.image_token_id).sum(-1).tolist() == [0, 10]


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
