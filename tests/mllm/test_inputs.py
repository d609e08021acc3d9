"""Prompts with several pictures, one or none, in one batch; attention by part; pictures and texts that strangers made."""

import warnings

import pytest
import torch
from PIL import Image

from pargo_mllm import ParGoForConditionalGeneration
from pargo_mllm.data.pictures import MAX_PIXELS, PictureError
from tests.mllm.made.miniature_families import FAMILY_NAMES, make_family


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family(request):
    return make_family(request.param)


def conversation(pictures, text):
    content = [{"type": "image", "image": picture} for picture in pictures]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


@torch.no_grad()
def test_a_batch_generates_what_each_sample_generates_alone(family, pictures):
    """Two pictures, text alone and one picture, padded on the left, token for token."""
    model, processor = family
    prompts = [(pictures[:2], "Which one?"), ([], "Hello, how are you today?"), (pictures[2:], "And this")]

    def generate(samples):
        texts = [processor.apply_chat_template(conversation(*sample), add_generation_prompt=True) for sample in samples]
        inputs = processor(
            text=texts,
            images=[list(images) for images, _ in samples] if any(images for images, _ in samples) else None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=False,
        )
        out = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False)
        return out[:, inputs["input_ids"].shape[1] :].tolist()

    together = generate(prompts)
    alone = [generate([prompt])[0] for prompt in prompts]
    assert together == alone
    assert len({tuple(row) for row in together}) > 1, "what is seen matters"


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [True, False])
def test_the_image_token_is_never_generated(family, pictures, tmp_path, use_cache):
    model, processor = family
    model.save_pretrained(tmp_path)
    model = ParGoForConditionalGeneration.from_pretrained(tmp_path).eval()
    prompt = processor.apply_chat_template(conversation(pictures[:1], "What?"), add_generation_prompt=True)
    inputs = processor(text=[prompt], images=[pictures[:1]], return_tensors="pt", add_special_tokens=False)
    likeliest = torch.nn.functional.one_hot(torch.tensor(processor.image_token_id), model.lm_head.out_features)
    model.lm_head.register_forward_hook(lambda module, args, logits: logits + 1e4 * likeliest)
    out = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False, use_cache=use_cache)
    assert processor.image_token_id not in out[0, inputs["input_ids"].shape[1] :]


@torch.no_grad()
def test_one_call_from_messages_to_inputs(family, pictures):
    """apply_chat_template opens the pictures, expands their tokens and begins the text once."""
    _, processor = family
    batch = processor.apply_chat_template(
        [conversation(pictures[:2], "What?")], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = batch["input_ids"][0].tolist()
    assert ids.count(processor.image_token_id) == 2 * processor.num_image_tokens
    assert batch["pixel_values"].shape == (2, 3, 28, 28)
    bos = processor.tokenizer.bos_token_id
    assert bos is None or ids.count(bos) == 1


def test_gradient_checkpointing_changes_no_gradient(family):
    model, processor = family
    torch.manual_seed(0)
    image = [processor.image_token_id] * processor.num_image_tokens
    words = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    ids = torch.cat((torch.tensor([image, image]), words), dim=1)
    batch = {"input_ids": ids, "pixel_values": torch.randn(2, 3, 28, 28), "labels": ids, "use_cache": False}

    def gradients():
        model.zero_grad()
        model(**batch).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}

    model.train()
    plain = gradients()
    model.gradient_checkpointing_enable()
    assert model.model.projector.is_gradient_checkpointing
    assert model.model.language_model.is_gradient_checkpointing
    kept = gradients()
    model.gradient_checkpointing_disable()
    model.eval()
    assert kept.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(kept[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_flash_attention_is_for_encoder_and_language_model(make_config):
    config = make_config()
    config._attn_implementation = "flash_attention_2"
    parts = (config.vision_config, config.projector_config, config.text_config)
    assert [part._attn_implementation for part in parts] == ["flash_attention_2", None, "flash_attention_2"]


def test_flash_attention_that_is_not_installed_is_named(make_model, tmp_path):
    try:
        import flash_attn  # noqa: F401
    except ImportError:
        make_model().save_pretrained(tmp_path)
        with pytest.raises(ImportError, match=r"(?i)flash"):
            ParGoForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="flash_attention_2")
    else:
        pytest.skip("flash_attn is installed")


def write_picture(path, kind):
    if kind == "missing":
        return "cannot be read"
    if kind == "text":
        path.write_text("no picture")
        return "cannot be read"
    if kind == "cut":
        Image.effect_noise((64, 64), 50).save(path, "PNG")
        path.write_bytes(path.read_bytes()[:900])
        return "cannot be read"
    if kind == "one pixel":
        Image.new("RGB", (1, 1)).save(path, "PNG")
        return "1 x 1 pixels; a picture needs at least"
    Image.new("1", (10_000, 10_000)).save(path, "PNG")
    return "100,000,000 pixels; at most 64,000,000"


@pytest.mark.parametrize("kind", ["missing", "text", "cut", "one pixel", "100 megapixels"])
def test_files_that_are_no_usable_picture_are_refused(processor, tmp_path, kind):
    path = tmp_path / "picture.png"
    said = write_picture(path, kind)
    for given in (str(path), path):
        with pytest.raises(PictureError, match=said) as caught:
            processor(text=["<image> what"], images=[[given]], return_tensors="pt")
        assert "picture.png" in str(caught.value)


def test_a_file_is_the_picture_in_it(processor, pictures, tmp_path):
    pictures[0].save(tmp_path / "a.png")
    from_file = processor(text=["<image> what"], images=[[str(tmp_path / "a.png")]], return_tensors="pt")
    given = processor(text=["<image> what"], images=[[pictures[0]]], return_tensors="pt")
    assert torch.equal(from_file["pixel_values"], given["pixel_values"])


def test_pictures_in_memory_have_the_same_limits(processor):
    with pytest.raises(PictureError, match=r"a picture is 1 x 9 pixels"):
        processor(text=["<image> what"], images=[[Image.new("RGB", (1, 9))]], return_tensors="pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PictureError, match=rf"at most {MAX_PIXELS:,} are read"):
            processor(text=["<image> what"], images=[[Image.new("1", (10_000, 10_000))]], return_tensors="pt")
