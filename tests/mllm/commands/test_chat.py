"""``pargo chat``: what it prints is what generate() says to the whole conversation."""

import io
import json

import pytest
import torch

from pargo_mllm.chatting import Chat
from pargo_mllm.cli import main
from tests.mllm.made.miniature_families import make_family

QUESTIONS = ("which colour", "what shape is at the top", "yes")


@pytest.fixture
def folder(make_model, processor, pictures, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    for index, picture in enumerate(pictures[:2]):
        picture.save(tmp_path / f"{index}.png")
    return tmp_path


def said_by_hand(model, processor, pictures, questions, system=""):
    """Prompts put together here, greedy tokens one at a time."""
    text, answers = f"<s>{system}", []
    for index, question in enumerate(questions):
        text += "<|user|>" + ("<image>" * len(pictures) if index == 0 else "") + question + "<|assistant|>"
        batch = processor(text=[text], images=[pictures] if pictures else None, return_tensors="pt", add_special_tokens=False)
        ids = batch.pop("input_ids")
        start = ids.shape[1]
        for _ in range(6):
            batch["attention_mask"] = torch.ones_like(ids)
            logits = model(input_ids=ids, **batch).logits[:, -1]
            logits[:, processor.image_token_id] = float("-inf")
            token = logits.argmax(-1, keepdim=True)
            ids = torch.cat((ids, token), dim=1)
            if token.item() == processor.tokenizer.eos_token_id:
                break
        answers.append(processor.tokenizer.decode(ids[0, start:], skip_special_tokens=True).strip())
        text += answers[-1] + "</s>"
    return answers


@torch.no_grad()
@pytest.mark.parametrize("count", [0, 1, 2])
def test_several_turns_from_standard_input(folder, make_model, processor, pictures, capsys, monkeypatch, count):
    expected = said_by_hand(make_model(), processor, pictures[:count], QUESTIONS)
    assert len(set(expected)) > 1
    assert any(expected)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n\n".join(QUESTIONS) + "\n"))
    images = [argument for index in range(count) for argument in ("--image", str(folder / f"{index}.png"))]
    arguments = ["chat", "--model", str(folder / "model"), *images, "--max-new-tokens", "6", "--device", "cpu"]
    assert main(arguments) == 0
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == expected


def test_a_question_that_cannot_be_asked_leaves_no_trace(make_model, processor, pictures):
    chat = Chat(make_model(), processor, pictures[:1], generation={"max_new_tokens": 4, "do_sample": False})
    with pytest.raises(ValueError, match=r"2 <image>.*1 pictures"):
        chat.ask("what is this <image>")
    first = chat.ask(QUESTIONS[0])
    fresh = Chat(make_model(), processor, pictures[:1], generation={"max_new_tokens": 4, "do_sample": False})
    assert fresh.ask(QUESTIONS[0]) == first
    assert [message["role"] for message in chat.messages] == ["user", "assistant"]


def test_the_answer_streams_as_it_comes(make_model, processor, pictures):
    class Steps:
        def __init__(self):
            self.puts = []

        def put(self, value):
            self.puts.append(value.numel())

        def end(self):
            self.puts.append("end")

    steps = Steps()
    chat = Chat(make_model(), processor, pictures[:1], generation={"max_new_tokens": 5, "min_new_tokens": 5})
    chat.ask(QUESTIONS[0], steps)
    assert steps.puts[1:] == [1] * 5 + ["end"], "after the prompt, a token at a time"


def test_the_system_message_stands_first(pictures):
    model, processor = make_family("qwen")
    chat = Chat(model, processor, pictures[:1], system="Be brief.", generation={"max_new_tokens": 2})
    chat.ask("What?")
    text = processor.apply_chat_template(chat.messages, tokenize=False)
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<image>\nWhat?")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model" / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "model" / "processor_config.json").unlink(), "has no processor_config.json"),
        (lambda folder: (folder / "model" / "config.json").write_text("{"), "config.json is no JSON that can be read"),
        (lambda folder: (folder / "model" / "config.json").write_text("[]"), "config.json holds a list"),
        (lambda folder: (folder / "model" / "config.json").write_text(json.dumps({"model_type": "llama"})), "type 'llama'"),
        (lambda folder: (folder / "0.png").write_text("x"), "cannot be read as a picture"),
    ],
)
def test_what_cannot_be_chatted_with_is_named(folder, capsys, monkeypatch, spoil, said):
    spoil(folder)
    monkeypatch.setattr("sys.stdin", io.StringIO("what\n"))
    assert main(["chat", "--model", str(folder / "model"), "--image", str(folder / "0.png"), "--device", "cpu"]) == 2
    assert said in capsys.readouterr().err


def ask(folder, *more):
    return main(["chat", "--model", str(folder / "model"), "--max-new-tokens", "2", "--device", "cpu", *more])


@pytest.mark.parametrize(("encoding", "errors"), [("utf-8", "strict"), ("utf-8", "surrogateescape"), ("ascii", "strict")])
def test_bytes_that_are_no_text_end_the_conversation(folder, capsys, monkeypatch, encoding, errors):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"yes\nwhat \xff\n"), encoding, errors))
    assert ask(folder) == 2
    said = capsys.readouterr().err
    assert "standard input holds bytes that are no" in said
    assert "Traceback" not in said


def test_a_system_message_that_is_no_text_is_named(folder, capsys):
    assert ask(folder, "--system", b"\xff".decode("utf-8", "surrogateescape")) == 2
    assert "--system holds bytes that are no UTF-8 text" in capsys.readouterr().err


def test_a_question_that_could_not_be_asked_counts_in_the_end(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("what is <image>\nwhat\n"))
    assert ask(folder) == 2
    said = capsys.readouterr()
    assert "1 question could not be asked" in said.err
    assert said.out.strip(), "the next one was answered"


@pytest.mark.parametrize("refuses", ["{{ raise_exception('no system message') }}", "{{ messages[7].role }}", "{{ 1 / 0 }}"])
def test_a_template_that_refuses_a_conversation_says_so(folder, capsys, monkeypatch, refuses):
    template = folder / "model" / "chat_template.jinja"
    old = template.read_text()
    template.write_text("{% if messages[0].role == 'system' %}" + refuses + "{% endif %}" + old)
    monkeypatch.setattr("sys.stdin", io.StringIO("what\n"))
    assert ask(folder, "--system", "be brief") == 2
    assert "pargo chat: the chat template refuses" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--max-new-tokens", "0"), ("--max-new-tokens", "x"), ("--temperature", "nan")])
def test_impossible_numbers_are_refused(folder, capsys, option, value):
    with pytest.raises(SystemExit) as ended:
        ask(folder, option, value)
    assert ended.value.code == 2
    assert f"argument {option}" in capsys.readouterr().err
