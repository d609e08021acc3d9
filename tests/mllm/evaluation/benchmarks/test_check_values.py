"""Published figures, each from its own files through ``pargo score``, to the last digit that was published."""

import csv
import json
import re
from pathlib import Path

import pytest

from pargo_cli.benchmarks import BENCHMARKS
from pargo_mllm.evaluation.benchmarks import find
from tests.mllm.made.command_line import ended

SCORES = "golden/scores"
REC = f"{SCORES}/rec/refcoco_val_qwen2_5vl_3b_instruct"
ROOT = Path(__file__).resolve().parents[4]

# the words behind "pargo score", and the figures: exact, or rounded to as many digits as are published
CHECKED = {
    "mme": (["data/mme_lavin", "--benchmark", "mme"], {"perception": "963.6114", "cognition": "249.6429"}),
    "seed_bench": (["data/seed_bench/gpt4v_predictions.jsonl", "--benchmark", "seed_bench"], {"accuracy": "0.672834"}),
    "pope": (
        [
            f"{SCORES}/pope/llava-v1.5-13b_popular.jsonl",
            *("--benchmark", "pope", "--answers", f"{SCORES}/pope/coco_pope_popular.json"),
        ],
        {
            "accuracy": "0.874333",
            "f1": "0.862459",
            "yes_ratio": "0.413667",
            "counts": {"TP": 1182, "FP": 59, "TN": 1441, "FN": 318},
            "joined_by": "picture and question",
        },
    ),
    "mmbench": (
        [f"{SCORES}/mmbench/llava-v1.5-13b_dev_even.tsv", "--benchmark", "mmbench", "--rule", "official-2023"],
        {"circular": 410 / 600, "rows": "0.767713"},
    ),
    "scienceqa": (
        [f"{SCORES}/scienceqa/llava-v1.5-13b_even.json", "--benchmark", "scienceqa"],
        {"accuracy": "0.748232", "with_picture": "0.714286", "pictured": 987},
    ),
    "mm_vet, one run": (
        [f"{SCORES}/mm_vet/llava-v1.5-7b_gpt-4-grade-1runs.json", "--benchmark", "mm_vet"],
        {"score": "31.1927", "runs": ["31.1927"]},
    ),
    "mm_vet, three runs of one file of answers": (
        [
            f"{SCORES}/mm_vet/llava-v1.5-7b.json",
            *("--benchmark", "mm_vet", "--grades", f"{SCORES}/mm_vet/llava-v1.5-7b_gpt-4-grade-3runs.json"),
        ],
        {"runs": ["31.2385", "30.8257", "31.2385"], "score": "31.1"},
    ),
    "refcoco, r1": (
        [f"{REC}_r1_500.json", "--benchmark", "refcoco", "--frame", "pixels"],
        {"accuracy": 0.906, "frame": "pixels"},
    ),
    "refcoco, sft": ([f"{REC}_sft_500.json", "--benchmark", "refcoco", "--frame", "pixels"], {"accuracy": 0.872}),
    "refcoco, baseline": ([f"{REC}_baseline.json", "--benchmark", "refcoco", "--frame", "pixels"], {"accuracy": 0.0}),
    "vqav2": ([f"{SCORES}/vqa/scored_items_even.json", "--benchmark", "vqav2", "--rule", "official"], {"accuracy": "0.592"}),
    "caption, nlg-eval's": (
        [f"{SCORES}/nlg_eval_examples/hyp.txt", "--benchmark", "caption"],
        {"cider": "1.242192", "bleu4": "0.201143", "rouge_l": "0.522104", "pictures": 2},
    ),
    "llava_bench": ([f"{SCORES}/llava_bench/llava-v1.5-13b-eval1.jsonl", "--benchmark", "llava_bench"], {"score": "72.83"}),
}


def check(found, expected):
    """Numbers that are written as text are rounded to their digits."""
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            check(one, other)
    elif isinstance(expected, str) and re.fullmatch(r"[\d.]+", expected):
        assert f"{found:.{len(expected.partition('.')[2])}f}" == expected
    else:
        assert found == expected


@pytest.mark.parametrize("case", CHECKED)
def test_published_figures(case, shared, capsys):
    words, figures = CHECKED[case]
    done = ended(capsys, "score", *(shared / word if "/" in word else word for word in words), "--json")
    assert done.status == 0, done.said
    result = json.loads(done.printed)
    for key, expected in figures.items():
        check(result[key], expected)
    assert (result["benchmark"], result["versions"].keys() >= {"pargo", "python"}) == (case.split(",")[0], True)


def test_boxes_in_another_frame_are_told(shared, capsys):
    done = ended(capsys, "score", shared / f"{REC}_baseline.json", "--benchmark", "refcoco", "--frame", "pixels", "--json")
    assert "the frame thousand" in done.said
    assert json.loads(done.printed)["better_frame"] == "thousand"
    for name in ("r1_500", "sft_500"):
        words = (shared / f"{REC}_{name}.json", "--benchmark", "refcoco", "--frame", "pixels")
        assert ended(capsys, "score", *words).said == ""
    refused = ended(capsys, "score", shared / f"{REC}_r1_500.json", "--benchmark", "refcoco")
    assert (refused.status, refused.printed) == (2, "")
    assert all(frame in refused.said for frame in ("--frame", "pixels", "picture", "padded", "thousand"))


def test_the_spread_of_three_runs(shared, capsys):
    """The evaluator's own table has the deviation of its three runs, rounded."""
    folder = shared / SCORES / "mm_vet"
    with open(folder / "llava-v1.5-7b_gpt-4-cap-score-3runs.csv", newline="") as file:
        (published,) = csv.DictReader(file)
    words = (
        folder / "llava-v1.5-7b.json",
        "--benchmark",
        "mm_vet",
        "--grades",
        folder / "llava-v1.5-7b_gpt-4-grade-3runs.json",
    )
    result = json.loads(ended(capsys, "score", *words, "--json").printed)
    check(result["score"], published["total"])
    check(result["spread"], published["std"])
    check(result["runs"], [run.strip() for run in published["runs"].strip("[]").split(",")])


def test_each_item_of_vqav2(shared, capsys, tmp_path):
    items = json.loads((shared / SCORES / "vqa/scored_items_even.json").read_text())["items"]
    words = ("score", shared / SCORES / "vqa/scored_items_even.json", "--benchmark", "vqav2")
    assert ended(capsys, *words, "--out", tmp_path / "run").status == 0
    marks = {mark["id"]: mark for mark in map(json.loads, (tmp_path / "run/marks.jsonl").read_text().splitlines())}
    assert len(marks) == len(items)
    for item in items:
        assert 100 * marks[str(item["question_id"])]["value"] == pytest.approx(item["accuracy_percent"], abs=1e-9)


def test_each_string_as_vqav2_makes_it_plain(shared, capsys, tmp_path):
    """Nine people give what the official code makes of a string, and one something else, so that answers are made plain."""
    pairs = json.loads((shared / SCORES / "vqa/normalised_even.json").read_text())
    rows = [
        {"question_id": number, "prediction": pair["raw"], "answers": [pair["normalised"]] * 9 + ["something else"]}
        for number, pair in enumerate(pairs)
    ]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    assert ended(capsys, "score", tmp_path / "p.json", "--benchmark", "vqav2", "--out", tmp_path / "run").status == 0
    marks = [json.loads(line) for line in (tmp_path / "run/marks.jsonl").read_text().splitlines()]
    assert [mark["said"] for mark in marks if mark["value"] != 1] == []


def test_captions_of_the_coco_sample(shared, capsys, tmp_path):
    """The first caption of each picture against the other four, as the official code scores them."""
    golden = json.loads((shared / SCORES / "caption/coco_sample_scores.json").read_text())
    told = json.loads((shared / "data/coco_sample/captions.json").read_text())["annotations"]
    first = {}
    for one in told:
        first.setdefault(str(one["image_id"]), one["caption"])
    references = [
        {"image_id": int(number), "id": place, "caption": caption}
        for number, captions in golden["references"].items()
        for place, caption in enumerate(captions)
    ]
    images = [{"id": int(number), "file_name": f"{int(number):012d}.jpg"} for number in golden["references"]]
    (tmp_path / "references.json").write_text(json.dumps({"images": images, "annotations": references}))
    said = [{"image_id": int(number), "caption": first[number]} for number in golden["references"]]
    (tmp_path / "said.json").write_text(json.dumps(said))
    words = (tmp_path / "said.json", "--benchmark", "caption", "--rule", "ptb", "--answers", tmp_path / "references.json")
    done = ended(capsys, "score", *words, "--json")
    assert done.status == 0, done.said
    result = json.loads(done.printed)
    official = golden["first_caption_vs_other_four"]["scores"]
    for key, name in (("cider", "CIDEr"), ("bleu4", "Bleu_4"), ("rouge_l", "ROUGE_L")):
        assert result[key] == pytest.approx(official[name], rel=1e-12)
    assert (result["pictures"], result["tokenizer"]) == (len(golden["references"]), "ptb")


def table(heading):
    """Rows of the table of docs/evaluation.md whose first line begins so, as the words in code of each cell."""
    lines = (ROOT / "docs/evaluation.md").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(heading)) + 2
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            return rows
        rows.append([re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|")])
    return rows


@pytest.mark.parametrize("case", CHECKED)
def test_the_page_names_every_figure(case, shared, capsys):
    words, _ = CHECKED[case]
    done = ended(capsys, "score", *(shared / word if "/" in word else word for word in words), "--json")
    result = json.loads(done.printed)
    own = list(result)[: list(result).index("benchmark")]
    (keys,) = [keys for names, keys, *_ in table("| benchmark | figures") if result["benchmark"] in names]
    assert set(own) <= set(keys)


def test_the_page_names_every_benchmark_and_rule():
    named = {name: rules for names, _, rules, _ in table("| benchmark | figures") for name in names}
    assert set(named) == set(BENCHMARKS)
    for name in set(BENCHMARKS) - {"scenes"}:
        assert named[name] == [rule.name for rule in find(name).rules]
