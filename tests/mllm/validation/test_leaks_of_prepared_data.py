"""What pargo itself prepares from a file asks what that file asks: none of its templates may hide it."""

from __future__ import annotations

import json

import pytest

from pargo_mllm.data.preparation.data_set import Options
from pargo_mllm.data.preparation.run import Form, prepare
from pargo_mllm.data.preparation.sets import find
from pargo_mllm.evaluation.benchmark import EvaluationError
from pargo_mllm.jobs import engine_of
from pargo_mllm.validation.division import part_of
from pargo_mllm.validation.leaks import read_evaluated
from pargo_mllm.validation.run import validate
from pargo_mllm.validation.settings import Settings
from tests.mllm.made.official import write

# the official file that the set is prepared from, as --against takes it
FILES = {
    "vqav2": "vqav2={}",
    "gqa": "{}/train_balanced_questions.json",
    "aokvqa": "{}/aokvqa_v1p0_train.json",
    "scienceqa": "{}/problems.json",
    "ocrvqa": "{}/dataset.json",
    "vsr": "{}/random/train.jsonl",
    "refcoco": "{}/finetune_refcoco_train.json",
    "refcoco+": "{}/finetune_refcoco+_train.json",
    "refcocog": "refcocog={}",
    "llava150k": "{}/llava_instruct_150k.json",
    "coco_captions": "{}/annotations/captions_train2017.json",
}


def leaks_in(file, against):
    found = []
    settings = Settings(evaluated=read_evaluated([against]))
    report = validate(part_of(file), settings, engine_of("local", 1), found.append, None)
    return report, {kind: {one.number for one in found if one.kind == kind} for kind in ("leak", "leak_text", "leak_picture")}


def made(name, tmp_path, **options):
    (tmp_path / "source").mkdir()
    write(name, tmp_path / "source")
    # what no evaluation reads: half a line, a box that is none
    for file in (*tmp_path.glob("source/*/*.jsonl"), *tmp_path.glob("source/*/instances.json")):
        file.write_text(file.read_text().removesuffix("{half\n").replace("NaN", "0"))
    # an annotation of no question, and a second one
    for file in tmp_path.glob("source/v2_mscoco_*_annotations.json"):
        told = json.loads(file.read_text())
        told["annotations"] = told["annotations"][:-2]
        file.write_text(json.dumps(told))
    prepare(find(name), tmp_path / "source", tmp_path / "out", Options(**options), Form(), engine_of("local", 1))
    return tmp_path / "out" / "data.json"


@pytest.mark.parametrize("name", FILES)
def test_a_set_leaks_from_the_file_that_it_was_prepared_from(name, tmp_path):
    file = made(name, tmp_path)
    report, found = leaks_in(file, FILES[name].format(tmp_path / "source"))
    assert found["leak"] == set(range(report.samples)), found
    records = json.loads(file.read_text())
    assert found["leak_picture"] == {number for number, record in enumerate(records) if "image" in record}


@pytest.mark.parametrize("frame", ["pixels", "padded", "thousand"])
def test_boxes_leak_in_every_frame_and_both_directions(frame, tmp_path):
    file = made("refcoco", tmp_path, frame=frame)
    asks_box = {"bounding box" in record["conversations"][0]["value"] for record in json.loads(file.read_text())}
    assert asks_box == {True, False}
    report, found = leaks_in(file, FILES["refcoco"].format(tmp_path / "source"))
    assert found["leak"] == set(range(report.samples)) != set()


@pytest.mark.parametrize("name", ["aokvqa", "scienceqa", "refcoco", "vsr"])
def test_another_right_answer_is_no_leak(name, tmp_path):
    file = made(name, tmp_path)
    records = json.loads(file.read_text())
    for record in records:
        asked, said = record["conversations"]
        if name in ("aokvqa", "scienceqa"):
            # the letter names another option
            said["value"] = "B" if said["value"] == "A" else "A"
        elif name == "vsr":
            said["value"] = "no" if said["value"] == "yes" else "yes"
        else:
            asked["value"] = asked["value"].replace("thing", "other")
            said["value"] = said["value"].replace("thing", "other")
    file.write_text(json.dumps(records))
    _, found = leaks_in(file, FILES[name].format(tmp_path / "source"))
    assert found["leak"] | found["leak_text"] == set()


def test_other_options_make_another_question(tmp_path):
    file = made("aokvqa", tmp_path)
    file.write_text(file.read_text().replace("food", "a spoon"))
    _, found = leaks_in(file, FILES["aokvqa"].format(tmp_path / "source"))
    assert found["leak"] == set()


def test_half_a_benchmark_is_none(tmp_path):
    made("vqav2", tmp_path)
    with pytest.raises(EvaluationError, match="without their questions"):
        read_evaluated([f"vqav2={tmp_path}/source/v2_mscoco_train2014_annotations.json"])
    with pytest.raises(EvaluationError, match="question"):
        read_evaluated([f"{tmp_path}/source/v2_mscoco_train2014_annotations.json"])
