"""A real chat model, SmolLM2-135M-Instruct, from its GGUF file through assembly, stage 1, a merged LoRA, chat and serving.

``make test-real`` runs it: it downloads 93 MB and takes minutes.
"""

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from pargo_mllm.answering import answer, generation_settings
from pargo_mllm.cli import main
from pargo_mllm.data.corpus import about_image
from pargo_mllm.data.feeding.conversations import ConversationEncoder
from pargo_mllm.language.lora import LoraSettings, add_lora
from pargo_mllm.loading import open_model
from pargo_mllm.pretrained import load_language_model
from pargo_mllm.serving import prepare_for_serving
from tests.mllm.made.photographs import write_photographs
from tests.mllm.made.real_parts import smollm2

pytestmark = pytest.mark.real

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."


def says(folder):
    model, processor = open_model(folder)
    return answer(model.eval(), processor, [QUESTION], **generation_settings(20))[0]


@pytest.fixture(scope="module")
def alone():
    """The language model by itself, and its tokenizer."""
    folder, name = smollm2()
    return load_language_model(str(folder), name)


@pytest.fixture(scope="module")
def photographs(root):
    return write_photographs(root / "photographs")


@pytest.fixture(scope="module")
def stage1(root, assembled, photographs):
    short = {
        "--steps": 10,
        "--batch-size": 2,
        "--bf16": "false",
        "--report-to": "none",
        "--save-steps": 100,
        "--max-length": 256,
        "--micro-batch-size": 2,
        "--warmup-steps": 2,
        "--workers": 0,
        "--engine": "ddp",
        "--gradient-checkpointing": "false",
    }
    arguments = ["stage1", "--model", assembled[0], "--data", photographs, "--output", root / "stage1"]
    arguments += [word for pair in short.items() for word in pair]
    assert main(["train", *map(str, arguments)]) == 0
    return root / "stage1"


def test_the_command_says_what_it_chose(assembled):
    _, told = assembled
    assert "chat template: the tokenizer's own; an answer ends with '<|im_end|>'" in told
    assert f"it says {ANSWER!r}" in told


def test_its_own_template_is_kept(assembled, alone):
    processor = open_model(assembled[0])[1]
    assert processor.chat_template == processor.tokenizer.chat_template == alone[1].chat_template
    reloaded = AutoTokenizer.from_pretrained(assembled[0])
    assert reloaded.apply_chat_template(QUESTION, tokenize=False) == alone[1].apply_chat_template(QUESTION, tokenize=False)


@torch.no_grad()
def test_text_alone_is_the_language_models_to_the_bit(assembled, alone):
    model, _ = open_model(assembled[0])
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    language_model, tokenizer = alone
    text = "The capital of France is Paris. " * 8
    for ids in (tokenizer(text, return_tensors="pt")["input_ids"], torch.arange(1, 400)[None]):
        own = language_model.eval()(input_ids=ids).logits
        assert torch.equal(model.eval()(input_ids=ids).logits[..., : own.shape[-1]], own)


def test_the_capital_of_france_before_and_after_everything(alone, assembled, stage1, root):
    language_model, tokenizer = alone
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    out = language_model.generate(ids, max_new_tokens=20, do_sample=False)
    assert tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) == ANSWER
    assert says(assembled[0]) == ANSWER
    assert says(stage1) == ANSWER
    trained, _ = open_model(stage1)
    after = {name: weight.clone() for name, weight in trained.state_dict().items()}
    add_lora(trained, LoraSettings(rank=4, alpha=8)).save_pretrained(root / "adapter")
    assert main(["merge", "--adapter", str(root / "adapter"), "--base", str(stage1), "--out", str(root / "merged")]) == 0
    assert says(root / "merged") == ANSWER
    # stage 1 trained the projector and nothing else
    before = open_model(assembled[0])[0].state_dict()
    assert before.keys() == after.keys()
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"projector"}


def test_labels_are_what_the_assistant_says(assembled):
    _, processor = open_model(assembled[0])
    talk = [
        {"role": "system", "content": "Be brief."},
        *about_image("What is it?", "A red kite over the sea."),
        {"role": "user", "content": "Is </s> or <|im_end|> a word?"},
        {"role": "assistant", "content": "<|im_end|> is none."},
    ]
    (encoded,) = ConversationEncoder(processor).encode_conversations([talk])
    labels = [token for token, said in zip(encoded.input_ids, encoded.is_answer, strict=True) if said]
    read = processor.tokenizer.decode(labels)
    whole = processor.tokenizer.decode(encoded.input_ids)
    assert read == "A red kite over the sea.<|im_end|><|im_end|> is none.<|im_end|>", f"labels: {read!r}\nof: {whole!r}"
    assert labels.count(processor.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2, f"labels: {labels}\nof: {whole!r}"


def test_chat_about_a_photograph(stage1, photographs, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("What is in the picture?\nWhat is the capital of France?\n"))
    assert (
        main(["chat", "--model", str(stage1), "--image", str(photographs / "images" / "0.jpg"), "--max-new-tokens", "20"]) == 0
    )
    said = capsys.readouterr()
    assert said.err == ""
    assert len(said.out.splitlines()) >= 2
    assert "USER:" not in said.out


def test_serving_finds_its_classes(stage1, tmp_path):
    prepare_for_serving(stage1)
    assert json.loads((stage1 / "config.json").read_text())["auto_map"]["AutoConfig"] == "pargo_classes.ParGoConfig"
    code = (
        "import sys, torch; from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        "model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "turn = [{'role': 'user', 'content': [{'type': 'text', 'text': 'What is the capital of France?'}]}]\n"
        "options = {'add_generation_prompt': True, 'tokenize': True, 'return_dict': True, 'return_tensors': 'pt'}\n"
        "ids = processor.apply_chat_template(turn, **options)\n"
        "out = model.generate(**ids, max_new_tokens=20, do_sample=False)\n"
        "print(processor.decode(out[0, ids['input_ids'].shape[1]:], skip_special_tokens=True))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(stage1)], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == ANSWER, done.stderr


def test_lmms_evals_plugin_answers(stage1):
    pytest.importorskip(
        "lmms_eval", reason="lmms-eval is not installed (it needs an environment of its own): its model was not run"
    )
    from pargo_mllm.evaluation.lmms_eval_model import ParGoLmmsEval

    model = ParGoLmmsEval(str(stage1), batch_size=2, device="cpu")
    documents = [("What is the capital of France?", None), ("What is it?", Image.new("RGB", (60, 40), "red"))]

    def to_messages(document):
        question, picture = document
        content = [] if picture is None else [{"type": "image", "url": picture}]
        return [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]

    model.task_dict = {"task": {"test": documents}}
    requests = [
        SimpleNamespace(args=(question, to_messages, {"max_new_tokens": 20}, index, "task", "test"))
        for index, (question, _) in enumerate(documents)
    ]
    assert model.generate_until(requests)[0] == ANSWER
