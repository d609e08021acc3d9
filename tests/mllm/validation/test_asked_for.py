"""What is looked at where it is asked for: a model's tokens, evaluations, near repeats, frames."""

from __future__ import annotations

import base64
import json

import pytest
from PIL import Image, ImageOps

from pargo_mllm.data.feeding.encoding import ExampleEncoder
from pargo_mllm.data.sources.llava import LlavaCorpus
from pargo_mllm.data.sources.shards import write_shards
from pargo_mllm.jobs import engine_of
from pargo_mllm.loading import save_model
from pargo_mllm.validation.box_checks import verdicts
from pargo_mllm.validation.division import part_of
from pargo_mllm.validation.leaks import read_evaluated
from pargo_mllm.validation.lengths import lengths_of
from pargo_mllm.validation.run import validate
from pargo_mllm.validation.settings import Settings
from tests.mllm.made.command_line import ended
from tests.mllm.made.faulty_set import clean_set, written
from tests.mllm.made.photographs import noise_picture
from tests.mllm.made.shard_files import pairs


def found_in(file, **settings):
    found = []
    report = validate(part_of(file), Settings(**settings), engine_of("local", 1), found.append, None)
    return {(one.kind, one.number) for one in found}, report


@pytest.fixture
def made(tmp_path):
    made = clean_set(tmp_path / "set", 40)
    made.write()
    return made


def test_tokens_are_counted_as_training_counts_them(made, tmp_path, make_model, processor, capsys):
    lengths_of.cache_clear()
    save_model(make_model(), processor, tmp_path / "model")
    corpus = LlavaCorpus(made.file, made.folder / "images")
    encode = ExampleEncoder(processor)
    tokens = [len(encode(corpus[index])["packed"]) for index in range(len(corpus))]
    limit = sorted(tokens)[len(tokens) // 2]
    done = ended(
        capsys, "validate", made.file, "--model", tmp_path / "model", "--max-length", limit, "--json", "--processes", 1
    )
    told = json.loads(done.printed)
    (long,) = told["findings"]
    assert (long["kind"], long["count"]) == ("too_long", sum(one > limit for one in tokens))
    assert [one["number"] for one in long["examples"]] == [at for at, one in enumerate(tokens) if one > limit][:3]
    assert told["tokens"] == {"samples": 40, "mean": round(sum(tokens) / 40, 2), "most": max(tokens)}


def test_leaks(made, tmp_path):
    def said(number):
        turns = made.records[number]["conversations"]
        return turns[0]["value"].removeprefix("<image>\n"), turns[1]["value"]

    def content(number):
        return (made.folder / "images" / made.records[number]["image"]).read_bytes()

    rows = []
    for number, name in ((1, "000001.jpg"), (2, "elsewhere/other.jpg")):
        question, answer = said(number)
        # cases, spaces and instructions do not hide it
        rows.append({"question_id": number, "image": name, "question": f"  {question.upper()} ", "answers": ["x", answer]})
    rows.append({"question_id": 3, "image": "000003.jpg", "question": "something else?", "answer": "no"})
    (tmp_path / "eval.json").write_text(json.dumps(rows))
    question, answer = said(4)
    # the same name is another picture, the same content has another name
    held = base64.b64encode(content(4)).decode()
    table = f"index\timage\tquestion\tanswer\n1\t{held}\t{question}\t{answer}\n"
    (tmp_path / "eval.tsv").write_text(table)
    made.records[6]["conversations"][0]["value"] += "\nAnswer the question using a single word or phrase."
    question, answer = said(6)
    captions = {"annotations": [{"image_id": 6, "caption": answer}]}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    made.write()
    evaluated = read_evaluated([str(tmp_path / name) for name in ("eval.json", "eval.tsv", "captions.json")])
    found, _ = found_in(made.file, evaluated=evaluated)
    assert found == {
        *(("leak", number) for number in (1, 4, 6)),
        *(("leak_picture", number) for number in (1, 3, 4, 6)),
        ("leak_text", 2),
    }


def test_a_benchmark_is_read_as_its_own_reader_reads_it(made, tmp_path):
    turns = made.records[1]["conversations"]
    question = {"question_id": 1, "image": "000001.jpg", "text": turns[0]["value"].removeprefix("<image>\n"), "label": "yes"}
    (tmp_path / "coco_pope_random.json").write_text(json.dumps(question))
    turns[1]["value"] = "Yes."
    made.write()
    found, _ = found_in(made.file, evaluated=read_evaluated([f"pope={tmp_path}"]))
    assert found == {("leak", 1), ("leak_picture", 1)}


def test_what_is_near(made):
    images = made.folder / "images"
    # the same file; the same look, scaled and saved anew; nearly the same words
    (images / made.records[2]["image"]).write_bytes((images / made.records[1]["image"]).read_bytes())
    look = ImageOps.expand(Image.linear_gradient("L").resize((64, 48)), 8, fill=200).convert("RGB")
    look.save(images / made.records[3]["image"])
    look.resize((160, 120)).save(images / made.records[6]["image"], quality=90)
    words = " ".join(f"word{number}" for number in range(60))
    made.records[11]["conversations"][1]["value"] = words
    made.records[13]["conversations"][1]["value"] = words.replace("word59", "another")
    made.write()
    found, _ = found_in(made.file, near=True)
    assert found == {("duplicate_picture", 2), ("near_picture", 6), ("near_text", 13)}


def test_a_file_that_several_records_show_is_no_copy(made):
    images = made.folder / "images"
    first = made.records[1]["image"]
    for number in (2, 3, 4, 8):
        made.records[number]["image"] = first
    # another name of it, which many show too; one record shows it by both names
    (images / "link.jpg").symlink_to(first)
    for number in (6, 9, 11):
        made.records[number]["image"] = "link.jpg"
    made.records[12]["image"] = ["link.jpg", first]
    made.records[12]["conversations"][0]["value"] = "<image> " + made.records[12]["conversations"][0]["value"]
    made.write()
    found, report = found_in(made.file, near=True)
    assert (found, report.counts["duplicate_picture"]) == ({("duplicate_picture", 6), ("image_forms", None)}, 1)


def test_pictures_of_shards_that_several_samples_show_are_no_copies(tmp_path):
    write_shards(pairs(3), tmp_path / "shards", per_shard=2)
    found, report = found_in(tmp_path / "shards", near=True)
    assert (found, report.samples) == (set(), 3)


@pytest.mark.parametrize(("declared", "real"), [("picture", "padded"), ("pixels", "thousand"), (None, "padded")])
def test_a_set_in_another_frame_is_told_by_all_its_boxes(declared, real, tmp_path):
    made = clean_set(tmp_path / "set", 0)
    for number in range(40):
        noise_picture(30, 60, number).save(made.folder / "images" / f"{number}.png")
        left, top = number % 20, number % 10
        box = {
            # of the square of 60, in which the picture begins at 15
            "padded": (left / 60, (15 + top) / 60, (left + 30) / 60, (15 + top + 20) / 60),
            "thousand": (left * 16, top * 33, left * 16 + 500, top * 33 + 600),
        }[real]
        turns = [{"from": "human", "value": f"<image> where is {number}"}, {"from": "gpt", "value": f"{number} {written(box)}"}]
        more = {"frame": declared} if declared else {}
        made.records.append({"id": str(number), "image": f"{number}.png", "conversations": turns, **more})
    made.write()
    found, report = found_in(made.file)
    assert ("set_frame", None) in found
    assert any(real in verdict for verdict in verdicts(report.boxes))
    if declared == "picture":
        # each of them alone could be in either
        assert found == {("set_frame", None)}
