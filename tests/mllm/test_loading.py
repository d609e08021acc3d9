"""Opening a model folder: complete or refused by name, whatever became of its files, and never a traceback."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pargo_mllm import ParGoForConditionalGeneration
from pargo_mllm.answering import answer
from pargo_mllm.cli import main
from pargo_mllm.errors import UserError
from pargo_mllm.loading import (
    ModelFolderError,
    check_model_folder,
    open_config,
    open_model,
    open_processor,
    open_weights,
    save_model,
)
from tests.mllm.made.damage import damage
from tests.mllm.made.miniature_families import make_family


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A model folder that is only read."""
    folder = tmp_path_factory.mktemp("kept") / "model"
    model, processor = make_family("vicuna")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "model")


def test_a_folder_may_be_named_by_text(kept, tmp_path):
    name = str(kept)
    check_model_folder(name)
    config = open_config(name)
    assert config.to_dict() == open_config(kept).to_dict()
    processor = open_processor(name, config)
    model, opened = open_model(name)
    assert opened.chat_template == processor.chat_template
    for key, tensor in open_weights(name).state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key])
    save_model(model, processor, str(tmp_path / "again"))
    check_model_folder(str(tmp_path / "again"))
    for opens in (check_model_folder, open_config, open_model, open_weights):
        with pytest.raises(ModelFolderError, match=r"missing has no config\.json"):
            opens(str(tmp_path / "missing"))


def change_weights(folder, change):
    """Save the folder's tensors as ``change`` leaves them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def change_json(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


EMBEDDINGS = "model.language_model.embed_tokens.weight"
LOST = (
    EMBEDDINGS,
    "lm_head.weight",
    "model.language_model.norm.weight",
    "model.projector.query_tokens",
    "model.projector.layers.0.mlp.fc1.bias",
    "model.vision_tower.embeddings.patch_embedding.weight",
    "model.vision_tower.post_layernorm.bias",
)


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("command", ["train", "chat", "merge"])
def test_a_lost_tensor_is_named_by_every_command(folder, tmp_path, capsys, monkeypatch, command, lost):
    if command == "merge":
        write_adapter(folder, tmp_path / "adapter")
    change_weights(folder, lambda tensors: tensors.pop(lost))
    picture = tmp_path / "picture.png"
    Image.new("RGB", (28, 28)).save(picture)
    out = tmp_path / "out"
    arguments = {
        "train": [
            "train",
            "vicuna-7b-stage1",
            "--model",
            folder,
            "--data",
            "scenes:train=4,held_out=1",
            "--output",
            out,
            "--dry-run",
        ],
        "chat": ["chat", "--model", folder, "--image", picture, "--device", "cpu"],
        "merge": ["merge", "--adapter", tmp_path / "adapter", "--base", folder, "--out", out],
    }[command]
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert f"the weights lack {lost};" in said
    assert not out.exists()


def write_adapter(folder, adapter):
    from pargo_mllm.language.lora import LoraSettings, add_lora

    model = add_lora(ParGoForConditionalGeneration.from_pretrained(folder), LoraSettings(rank=2, alpha=4, dropout=0.0))
    model.save_pretrained(adapter)


def reshape(name, *shape):
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (reshape("model.language_model.norm.weight", 31), r"norm\.weight of shape \[31\] in place of \[32\]"),
        (reshape(EMBEDDINGS, 7, 32), r"embed_tokens\.weight of shape \[7, 32\] in place of \[261, 32\]"),
        (reshape("model.projector.layers.7.norm.weight", 24), r"have model\.projector\.layers\.7\.norm\.weight of no layer"),
        (lambda tensors: tensors[EMBEDDINGS].view(-1)[3].fill_(float("nan")), r"embed_tokens\.weight .* not finite"),
        (lambda tensors: tensors["lm_head.weight"].view(-1)[3].fill_(-float("inf")), r"lm_head\.weight .* not finite"),
        (lambda tensors: tensors.clear(), r"lack .* and \d+ more"),
    ],
)
def test_a_tensor_that_is_not_the_models_is_named(folder, change, said):
    change_weights(folder, change)
    with pytest.raises(ModelFolderError, match=said):
        open_model(folder)
    with pytest.raises(ModelFolderError, match=said):
        open_weights(folder)


def test_a_whole_folder_opens_and_is_what_was_saved(kept):
    model, processor = open_model(kept, attn_implementation="eager")
    assert model.config.text_config._attn_implementation == "eager"
    saved = load_file(kept / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in model.state_dict().items())
    assert processor.num_image_tokens == open_config(kept).num_image_tokens


def test_tied_weights_are_not_missing(tmp_path):
    """Qwen's small models save one matrix for embeddings and head."""
    model, processor = make_family("qwen")
    model.config.text_config.tie_word_embeddings = model.config.tie_word_embeddings = True
    tied = ParGoForConditionalGeneration(model.config)
    tied.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    opened, _ = open_model(tmp_path)
    assert opened.lm_head.weight is opened.get_input_embeddings().weight


@pytest.mark.parametrize("family", ["internlm2", "llama3"])
def test_weights_in_several_files_under_other_names(family, tmp_path):
    model, processor = make_family(family)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    processor.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    open_model(tmp_path)
    content = shards[1].read_bytes()
    shards[1].unlink()
    with pytest.raises(ModelFolderError, match=rf"has no {shards[1].name}"):
        open_model(tmp_path)
    shards[1].write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFolderError, match=rf"{shards[1].name} is no whole safetensors file"):
        open_model(tmp_path)
    shutil.copy(shards[0], shards[1])
    with pytest.raises(ModelFolderError, match=rf"{shards[1].name} lacks"):
        open_model(tmp_path)
    shards[1].write_bytes(content)
    index = "model.safetensors.index.json"
    change_json(tmp_path, index, lambda content: content["weight_map"].update({"lm_head.weight": "../else.safetensors"}))
    with pytest.raises(ModelFolderError, match="must lie in the folder itself"):
        open_model(tmp_path)


def set_value(*path_and_value):
    *path, key, value = path_and_value

    def change(content):
        for step in path:
            content = content[step]
        content[key] = value

    return change


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("config.json", set_value("text_config", "hidden_size", "32"), r"config\.json: .*hidden_size"),
        ("config.json", set_value("text_config", "hidden_size", 10**12), r"config\.json: .*hidden_size=1000000000000"),
        ("config.json", set_value("text_config", "intermediate_size", 10**12), r"gate_proj\.weight of shape"),
        ("config.json", set_value("text_config", "vocab_size", 10**12), r"lm_head\.weight of shape"),
        ("config.json", set_value("text_config", "num_hidden_layers", 10**9), r"text_config\.num_hidden_layers=1000000000"),
        ("config.json", set_value("vision_config", "num_hidden_layers", 10**9), r"vision_config\.num_hidden_layers=1000000000"),
        ("config.json", set_value("projector_config", "num_hidden_layers", 10**9), r"projector_config\.num_hidden_layers"),
        ("config.json", set_value("text_config", "num_labels", 10**9), r"text_config\.num_labels=1000000000"),
        (
            "config.json",
            set_value("vision_config", "image_size", 7 * 10**5),
            r"config\.json: .*feature_grid|position_embedding",
        ),
        ("config.json", set_value("text_config", "num_attention_heads", 0), r"config\.json|ZeroDivisionError"),
        ("config.json", set_value("text_config", "hidden_act", "sigh"), r"sigh"),
        ("config.json", set_value("text_config", "model_type", "sigh"), r"text_config has model_type='sigh'"),
        ("config.json", set_value("vision_feature_layer", -9), r"vision_feature_layer=-9"),
        ("config.json", set_value("vision_feature_select_strategy", "all"), r"vision_feature_select_strategy='all'"),
        ("config.json", set_value("projector_config", "layer_norm_eps", "0"), r"layer_norm_eps='0' must be a number"),
        ("generation_config.json", set_value("eos_token_id", "x"), r"generation_config\.json: eos_token_id='x'"),
        ("generation_config.json", set_value("suppress_tokens", [10**9]), r"suppress_tokens=\[1000000000\]"),
        ("generation_config.json", set_value("repetition_penalty", "x"), r"repetition_penalty='x' must be a number"),
        ("generation_config.json", set_value("max_new_tokens", -1), r"generation_config\.json: .*max_new_tokens"),
        ("processor_config.json", set_value("num_image_tokens", 304), r"num_image_tokens is 304, where the model needs 10"),
        ("processor_config.json", set_value("max_tiles", "x"), r"image processor of"),
        (
            "processor_config.json",
            set_value("image_processor", "size", "height", 10**9),
            r"processor_config\.json: size\.height",
        ),
        ("processor_config.json", set_value("image_processor", "do_resize", False), r"makes pictures of shape"),
        ("processor_config.json", set_value("image_processor", "image_mean", ["x"]), r"processor_config\.json"),
        ("processor_config.json", set_value("image_processor", "image_processor_type", "Nothing"), r"image processor of"),
        ("tokenizer.json", set_value("model", "type", "Nothing"), r"tokenizer\.json: "),
        (
            "tokenizer.json",
            lambda content: content["model"]["vocab"].update({"zz": 10**6}),
            r"image_token_id is 261, where the model needs 260",
        ),
        ("tokenizer_config.json", set_value("tokenizer_class", 7), r"the tokenizer .* of"),
    ],
)
def test_a_wrong_value_is_refused_by_file_and_key(folder, name, change, said):
    change_json(folder, name, change)
    with pytest.raises(ModelFolderError, match=said):
        open_model(folder)


@pytest.mark.parametrize("content", [b"[" * 10**5, b'{"a": ' + b"9" * 10**4 + b"}", b"\xff\xfe{", b"", b"[]", b"null", b"{"])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "processor_config.json", "tokenizer.json"])
def test_json_that_cannot_be_read_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=rf"{name} (is no JSON that can be read|holds a)"):
        open_model(folder)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (b"{% for", "TemplateSyntaxError"),
        (b"{{ raise_exception('not for you') }}", "not for you"),
        (b"{{ messages[7].content }}", "UndefinedError"),
        (b"{% for i in range(10**9) %}{{ i }}{% endfor %}", "OverflowError"),
        (b"{{ ().__class__.__base__.__subclasses__() }}", "SecurityError"),
        (b"\xff\xfe", "chat_template.jinja: 'utf-8' codec"),
        (b"no picture", "0 <image>"),
    ],
)
def test_a_template_that_cannot_ask_about_a_picture_is_named(folder, template, said):
    (folder / "chat_template.jinja").write_bytes(template)
    with pytest.raises(ModelFolderError) as error:
        open_model(folder)
    assert said in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "added_tokens.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "socket", "dangling link", "folder"])
def test_what_is_no_file_is_not_waited_for(folder, name, kind):
    file = folder / name
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "socket":
        with (
            contextlib.chdir(folder) if hasattr(contextlib, "chdir") else contextlib.nullcontext(),
            socket.socket(socket.AF_UNIX) as one,
        ):
            one.bind(name)
    elif kind == "dangling link":
        file.symlink_to(folder / "nowhere")
    else:
        file.mkdir()
    with pytest.raises(ModelFolderError, match=str(folder)):
        open_model(folder)


def test_a_header_of_impossible_length_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes((2**62).to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(ModelFolderError, match=r"model\.safetensors is no whole safetensors file"):
        open_model(folder)


def test_an_adapter_beside_a_model_is_not_loaded_in_its_place(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere", "peft_type": "LORA"}))
    with pytest.raises(ModelFolderError, match="holds an adapter beside a model"):
        open_model(folder)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "processor_config.json", "config.json"])
def test_a_folders_own_code_is_never_run(folder, name, tmp_path, monkeypatch):
    """Nor is anybody asked: the answer would be read from the questions of pargo chat."""
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own:\n    pass\n")
    own = dict.fromkeys(("AutoConfig", "AutoProcessor", "AutoModelForImageTextToText", "AutoImageProcessor"), "own.Own")
    own_map = {**own, "AutoTokenizer": ["own.Own", "own.Own"]}
    change_json(folder, name, set_value("auto_map", own_map))
    asked = []
    monkeypatch.setattr("builtins.input", lambda *question: asked.append(question) or "y")
    with contextlib.suppress(ModelFolderError):
        open_model(folder)
    assert not asked
    assert not ran.exists()


def test_a_processor_of_another_model_is_refused(kept, tmp_path):
    model, _ = make_family("vicuna", num_partial_tokens=4)
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="num_image_tokens is 10, where the model needs 6"):
        open_processor(kept, open_config(tmp_path))


class TakesTooLong(BaseException):
    pass


def _too_long(*_):
    raise TakesTooLong


def open_and_ask(folder):
    """Open and ask: an answer, or a refusal; anything else comes out."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(60)
    try:
        model, processor = open_model(folder)
        content = [{"type": "image", "image": Image.new("RGB", (30, 40))}, {"type": "text", "text": "which?"}]
        answer(model.eval(), processor, [[{"role": "user", "content": content}]], max_new_tokens=3)
    except UserError:
        return "refused"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return "answered"


def damaged_folders(kept, place, seeds):
    names = sorted(path.name for path in kept.iterdir())
    outcomes = {"answered": 0, "refused": 0}
    for seed in seeds:
        random_ = random.Random(seed)
        folder = shutil.copytree(kept, place / str(seed))
        change = damage(folder / random_.choice(names), random_)
        try:
            outcomes[open_and_ask(folder)] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}, {change}: {type(error).__name__} {error}") from error
        shutil.rmtree(folder)
    return outcomes


@pytest.mark.filterwarnings("ignore")
def test_damaged_folders_answer_or_are_refused(kept, tmp_path):
    outcomes = damaged_folders(kept, tmp_path, range(50))
    # both happen, or nothing is damaged, or nothing whole
    assert min(outcomes.values()) > 5


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_two_thousand_damaged_folders_answer_or_are_refused(kept, tmp_path):
    outcomes = damaged_folders(kept, tmp_path, range(1000, 3000))
    assert min(outcomes.values()) > 200
