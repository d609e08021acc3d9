"""``pargo report`` of what ``pargo score`` left: published answers, and the errors of their figures."""

import json
import math

import numpy as np
import pytest

from pargo_mllm.cli import main


def scored(tmp_path, name, *arguments):
    assert main(["score", *map(str, arguments), "--out", str(tmp_path / name), "--json"]) == 0
    return tmp_path / name


def command(tmp_path, *arguments):
    status = main(["report", *map(str, arguments), "--out", str(tmp_path / "page.html")])
    return status, json.loads((tmp_path / "page.json").read_text()) if status == 0 else None


def test_published_answers_have_the_error_of_pictures_drawn_again(shared, tmp_path, capsys):
    """POPE by LLaVA-1.5-13B: accuracy and F1 of 1,000 draws of 500 pictures, from the official files alone."""
    folder = shared / "golden" / "scores" / "pope"
    labels, answers = folder / "coco_pope_popular.json", folder / "llava-v1.5-13b_popular.jsonl"
    run = scored(tmp_path, "pope", answers, "--benchmark", "pope", "--answers", labels)
    capsys.readouterr()
    status, found = command(tmp_path, run)
    assert status == 0
    assert "accuracy 0.8743 ± 0.00" in capsys.readouterr().out
    truth = [json.loads(line) for line in labels.read_text().splitlines()]
    marks = {mark["id"]: mark["read"] for mark in map(json.loads, (run / "marks.jsonl").read_text().splitlines())}
    pictures = {}
    for one in truth:
        said, right = marks[str(one["question_id"])] == "yes", one["label"] == "yes"
        # true and false positives, true and false negatives
        counts = (said and right, said and not right, not said and not right, not said and right)
        pictures.setdefault(one["image"], []).append(counts)
    table = np.array([np.sum(counts, axis=0) for counts in pictures.values()])
    assert table.sum(axis=0).tolist() == [1182, 59, 1441, 318]
    rng = np.random.default_rng(0)
    draws = np.array([table[rng.integers(0, len(table), len(table))].sum(axis=0) for _ in range(1000)])
    tp, fp, tn, fn = draws.T
    (one,) = found["runs"]
    expected = {"accuracy": (tp + tn) / 3000, "f1": 2 * tp / (2 * tp + fp + fn), "yes_ratio": (tp + fp) / 3000}
    for name, seen in expected.items():
        assert one["figures"][name]["standard_error"] == pytest.approx(np.std(seen), rel=0.08), name
        assert one["figures"][name]["pictures"] == 500
    assert one["figure"]["naive_standard_error"] == pytest.approx(math.sqrt(0.874333 * 0.125667 / 2999), rel=1e-4)


@pytest.mark.long
def test_published_points_have_the_error_of_pictures_drawn_again(shared, tmp_path):
    """MME by LaVIN: perception and existence of 1,000 draws of each subtask's pictures, from the official files alone."""
    _, found = command(tmp_path, scored(tmp_path, "mme", shared / "data" / "mme_lavin", "--benchmark", "mme"))
    assert found["runs"][0]["figure"]["value"] == pytest.approx(963.6114, abs=1e-4)
    rng, total = np.random.default_rng(0), 0
    cognition = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
    for file in sorted((shared / "data" / "mme_lavin").glob("*.txt")):
        rows = [line.split("\t", 3) for line in file.read_text().splitlines() if line]
        # its lines begin with yes or no, or are neither
        right = np.array(
            [answer.strip().lower() == said.strip().lower()[:4].rstrip(",. ")[: len(answer)] for *_, answer, said in rows]
        )
        pairs = right.reshape(-1, 2)
        drawn = pairs[rng.integers(0, len(pairs), (1000, len(pairs)))]
        points = 100 * drawn.mean(axis=(1, 2)) + 100 * drawn.all(axis=2).mean(axis=1)
        total = total + (0 if file.stem in cognition else points)
        error = found["runs"][0]["parts"][file.stem]["standard_error"]
        assert (error or 0) == pytest.approx(np.std(points), rel=0.12, abs=0.4), file.stem
    assert found["runs"][0]["figure"]["standard_error"] == pytest.approx(np.std(total), rel=0.08)


def test_captions_have_the_error_of_a_mean_of_pictures(tmp_path):
    """CIDEr knows how common words are by all captions; one picture's share of it is not computed anew without the others."""
    pytest.importorskip("pycocoevalcap")
    text = "a red dog runs over the green grass behind two small cats on some old wooden chairs today"
    words = text.split()
    captions = [" ".join(words[n % 5 : n % 5 + 6 + n % 3]) for n in range(20)]
    (tmp_path / "ref1.txt").write_text("".join(f"{' '.join(words[n % 7 : n % 7 + 8])}\n" for n in range(20)))
    (tmp_path / "hyp.txt").write_text("\n".join(captions) + "\n")
    run = scored(tmp_path, "run", tmp_path / "hyp.txt", "--benchmark", "caption", "--rule", "spaces")
    _, found = command(tmp_path, run)
    each = [json.loads(text)["extra"]["cider"] for text in (run / "marks.jsonl").read_text().splitlines()]
    one = found["runs"][0]["figure"]
    assert (one["how"], one["value"]) == ("mean", pytest.approx(np.mean(each)))
    assert one["standard_error"] == pytest.approx(np.std(each, ddof=1) / math.sqrt(20))


def test_the_command_says_in_a_line_what_it_cannot_read(tmp_path, capsys):
    lines = [{"question_id": n, "image": f"{n // 2}.jpg", "text": "Is there a dog?", "label": "yes"} for n in range(8)]
    (tmp_path / "labels.json").write_text("\n".join(map(json.dumps, lines)))
    said = [{"question_id": n, "text": "Yes" if n % 3 else "No", "prompt": "Is there a dog?"} for n in range(8)]
    (tmp_path / "said.jsonl").write_text("\n".join(map(json.dumps, said)))
    run = scored(tmp_path, "run", tmp_path / "said.jsonl", "--benchmark", "pope", "--answers", tmp_path / "labels.json")
    status, found = command(tmp_path, run, run)
    assert status == 0
    assert found["command"][:2] == ["pargo", "report"]
    assert found["runs"][0]["figure"]["pictures"] == 4
    (run / "result.json").write_text("{")
    capsys.readouterr()
    assert command(tmp_path, run)[0] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pargo report: {run / 'result.json'}, line 1")
