"""Referring expressions from official files to a score: prepared, read as training reads them, asked, answered, scored."""

import json

import pytest

from pargo_mllm.data.feeding.conversations import ConversationEncoder
from pargo_mllm.data.frames import FRAMES
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.evaluation.benchmarks import find
from pargo_mllm.evaluation.benchmarks.refcoco import read
from pargo_mllm.loading import save_model
from tests.mllm.made.command_line import ended
from tests.mllm.made.miniature_families import make_family
from tests.mllm.made.official.refer import write_both_sides

CASES = [
    *(("refcoco", "mdetr", frame) for frame in FRAMES),
    ("refcoco+", "pickle", "padded"),
    ("refcocog", "pickle", "picture"),
]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    save_model(*make_family("qwen"), folder)
    return folder


def learned(prepared):
    """What training puts before the model's labels, and the labels, as texts: of the phrases whose box is asked for."""
    processor = make_family("qwen")[1]
    encoder, tokenizer, found = ConversationEncoder(processor), processor.tokenizer, {}
    corpus = open_corpus(prepared, 2)
    for index in range(len(corpus)):
        (encoded,) = encoder.encode_conversations(corpus[index].conversations, [1])
        parts = {True: [], False: []}
        for token, is_answer in zip(encoded.input_ids, encoded.is_answer, strict=True):
            parts[is_answer].append(token)
        said = tokenizer.decode(parts[True], skip_special_tokens=True).strip()
        if said.startswith("["):
            found[tokenizer.decode(parts[False], skip_special_tokens=True)] = said
    return found


@pytest.mark.parametrize(("name", "form", "frame"), CASES)
def test_what_training_writes_is_right_in_its_own_frame_and_in_no_other(name, form, frame, tmp_path, capsys):
    truth = write_both_sides(name, tmp_path / "official", form)
    done = ended(capsys, "data", "prepare", name, "--src", tmp_path / "official", "--out", tmp_path / "data", "--frame", frame)
    assert done.status == 0, done.said
    benchmark, told = find(name), learned(tmp_path / "data")
    items = benchmark.read(tmp_path / "official")
    assert {item.question: (item.picture.rpartition("/")[2], item.answer) for item in items} == truth
    # asked in the words that were trained
    answers = {item.id: said for item in items for asked, said in told.items() if benchmark.asked(item) in asked}
    assert len(answers) == len(told) > 2
    # by picture and prompt, as others write it; sentences may end in a full stop of their own
    of = {item.id: {"image": item.picture, "prompt": benchmark.asked(item)} for item in items}
    lines = [json.dumps({**of[id], "text": said}) for id, said in answers.items()]
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    words = (
        "score",
        tmp_path / "said.jsonl",
        "--benchmark",
        name,
        "--answers",
        tmp_path / "official",
        "--only-joined",
        "--json",
    )
    scored = {other: json.loads(ended(capsys, *words, "--frame", other).printed) for other in FRAMES}
    assert {other: result["accuracy"] for other, result in scored.items()} == {other: float(other == frame) for other in FRAMES}
    assert scored[frame]["questions"] == len(answers)
    assert {scored[other]["better_frame"] for other in FRAMES if other != frame} == {frame}
    assert "better_frame" not in scored[frame]


def test_from_official_files_through_a_step_of_training_to_a_score(start, tmp_path, capsys):
    official, out = tmp_path / "official", tmp_path / "run"
    write_both_sides("refcoco", official, "mdetr")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("extends: mini-stage2\nattention: sdpa\nviews: 0\ncache_features: false\n")
    steps = ("--steps", 1, "--batch-size", 2, "--bf16", "false", "--report-to", "none")
    short = ("--limit", 8, "--batch-size", 8, "--max-new-tokens", 8)
    for words in (
        ("data", "prepare", "refcoco", "--src", official, "--out", tmp_path / "data"),
        ("train", recipe, "--data", tmp_path / "data", "--model", start, "--output", out, *steps),
        ("eval", out, "--benchmark", "refcoco", "--data", official, "--out", tmp_path / "eval", *short),
    ):
        done = ended(capsys, *words)
        assert done.status == 0, done.said
    result = json.loads((tmp_path / "eval" / "result.json").read_text())
    assert (result["questions"], result["rule"], set(result["parts"])) == (8, "picture", {"val", "testA"})
    # what it said can be scored again
    done = ended(capsys, "score", tmp_path / "eval", "--benchmark", "refcoco", "--frame", "picture", "--json")
    again = json.loads(done.printed)
    assert {key: again[key] for key in ("accuracy", "parts", "unread", "questions")} == {
        key: result[key] for key in ("accuracy", "parts", "unread", "questions")
    }


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda told: told["annotations"].pop(), "entry 7: 'annotations' has 0 boxes of it; a sentence here means one"),
        (lambda told: told["annotations"].append(told["annotations"][0]), "entry 1: 'annotations' has 2 boxes"),
        (lambda told: told["annotations"][2].update(bbox=[1, 2, 3]), "annotations', entry 3: the right box is no list of four"),
        (lambda told: told["images"][0].update(height=-1), "entry 1: the picture's size is 100 x -1"),
        (lambda told: told["images"][0].pop("caption"), "entry 1: it has no 'caption'"),
        (lambda told: told.pop("images"), "'images': it is null"),
        (lambda told: told.clear(), "'annotations': it is null"),
    ],
)
def test_damaged_files_are_refused_with_the_place(damage, says, tmp_path, capsys):
    write_both_sides("refcoco", tmp_path, "mdetr")
    file = tmp_path / "finetune_refcoco_val.json"
    told = json.loads(file.read_text())
    damage(told)
    file.write_text(json.dumps(told))
    (tmp_path / "said.jsonl").write_text('{"id": "1", "text": "[0,0,1,1]"}')
    for answers in (tmp_path, file):
        words = ("score", tmp_path / "said.jsonl", "--benchmark", "refcoco", "--frame", "picture", "--answers", answers)
        done = ended(capsys, *words)
        assert done.status == 2
        assert len(done.said.splitlines()) == 1
        assert says in done.said
        assert str(file) in done.said


def test_files_of_splits_that_each_count_anew_are_read_together(tmp_path):
    write_both_sides("refcoco", tmp_path, "mdetr")
    for split in ("val", "testA"):
        file = tmp_path / f"finetune_refcoco_{split}.json"
        told = json.loads(file.read_text())
        for number, (image, annotation) in enumerate(zip(told["images"], told["annotations"], strict=True)):
            image["id"] = annotation["id"] = annotation["image_id"] = number
        file.write_text(json.dumps(told))
    items = read("refcoco", tmp_path)
    assert len({item.id for item in items}) == len(items) == 12
