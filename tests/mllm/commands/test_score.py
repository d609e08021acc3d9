"""``pargo score`` on files as people have them: scored by the rule, or refused in one line that names the place."""

import json
import subprocess
import sys

import pytest

from tests.mllm.made.command_line import ended


@pytest.fixture
def pargo(capsys, monkeypatch, tmp_path):
    """Run the command line; its status, what it prints, and what it says beside."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*words):
        done = ended(capsys, *words)
        return done.status, done.printed, done.said

    return run


def write(folder, name, content):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def mme(*answers):
    """Two questions on one picture, of which the first is right with yes."""
    said = zip(("Yes", "No"), answers, strict=True)
    return "".join(f"1.jpg\tIs it so, {right}? Please answer yes or no.\t{right}\t{answer}\n" for right, answer in said)


def pope(*answers):
    return lines(
        *(
            {"question_id": number, "image": "1.jpg", "question": f"Is there a {number}?", "text": answer, "label": label}
            for number, (answer, label) in enumerate(answers)
        )
    )


def seed(*answers):
    return ",\n".join(
        json.dumps({"question_id": str(n), "prediction": said, "gt_answer": gt}) for n, (said, gt) in enumerate(answers)
    )


MMBENCH = "index\tquestion\tA\tB\tC\tD\tprediction\tanswer\n"

# what the rule's authors' code makes of it: the figure by hand
SCORED = {
    "MME: tabs in an answer": ("mme", "code_reasoning.txt", mme("yes\t", "no\tit\tis\tnot"), {"cognition": 200.0}),
    "MME: no in its first four characters": ("mme", "OCR.txt", mme("know", "no idea"), {"perception": 50.0}),
    "MME: neither": ("mme", "OCR.txt", mme("It is so: yes", "maybe not"), {"perception": 0.0}),
    "MME: CRLF and a byte order mark": ("mme", "OCR.txt", "\ufeff" + mme("YES\r", "No.\r"), {"perception": 200.0}),
    "MME: nothing said": ("mme", "OCR.txt", mme("", "No"), {"perception": 50.0}),
    "POPE: a word no": (
        "pope",
        "p.jsonl",
        pope(("no idea", "no"), ("I know, yes", "no"), ("Yes, not no.", "no")),
        {"accuracy": 2 / 3},
    ),
    "POPE: to the first full stop": ("pope", "p.json", pope(("Yes. No.", "yes"), ("Certainly", "yes")), {"accuracy": 1.0}),
    "POPE: nothing said": ("pope", "p.jsonl", pope(("", "yes"), ("", "no")), {"accuracy": 0.5, "yes_ratio": 1.0}),
    "SEED: the first character": (
        "seed_bench",
        "s.json",
        seed(("A person", "A"), ("B.", "B"), ("Cat", "C")),
        {"accuracy": 1.0},
    ),
    "SEED: no letter": (
        "seed_bench",
        "s.jsonl",
        seed(("no idea", "D"), ("a", "A"), ("", "B"), ("(A)", "A")),
        {"accuracy": 0.0},
    ),
    "SEED: in brackets": ("seed_bench", "s.json", f"[{seed(('A', 'A'))},\n]", {"accuracy": 1.0}),
    "MMBench: blank options": (
        "mmbench",
        "m.tsv",
        MMBENCH + "1\tWhat?\tx\ty\t\t\t\tA\n" + "2\tWhat?\tx\ty\tnan\t\tno idea\tB\n",
        {"rows": 0.0, "circular": 0.0},
    ),
    "MMBench: letters and texts": (
        "mmbench",
        "m.tsv",
        MMBENCH + "1\tWhat?\ta dog\ta cat\t\t\tIt is a dog.\tA\n" + '2\tWhat?\tx\ty\t\t\t"B.\tbecause"\tB\n',
        {"rows": 1.0, "circular": 1.0},
    ),
    "MMBench: one rotation wrong": (
        "mmbench",
        "m.csv",
        MMBENCH.replace("\t", ",") + "1,What?,x,y,,,A,A\n1000001,What?,y,x,,,A,B\n",
        {"rows": 0.5, "circular": 0.0},
    ),
}

REFUSED = {
    "empty": ("pope", "p.jsonl", "", "line 1: it is empty"),
    "a folder without predictions": ("mme", ".", None, "holds none of MME's files"),
    "missing": ("pope", "absent", None, "absent is not there"),
    "latin-1": ("pope", "p.jsonl", pope(("yes", "yes")).encode() + b'{"text": "na\xefve"}\n', "line 2: its byte 13, 0xef"),
    "UTF-16": ("mme", "OCR.txt", mme("yes", "no").encode("utf-16"), "line 1: it is UTF-16: save it as UTF-8"),
    "half a character": ("pope", "p.jsonl", pope(("yes", "yes"), ("\ud83d", "no")), "line 2: a text holds half of a character"),
    "cut short": ("pope", "p.jsonl", pope(("yes", "yes"), ("no", "no"))[:-9], "line 2: it is no JSON"),
    "an id twice": ("pope", "p.jsonl", pope(("yes", "yes")) * 2, "line 2: id '0' comes twice; it is in"),
    "an MME line missing": (
        "mme",
        "OCR.txt",
        mme("yes", "no") + mme("yes", "no").splitlines()[0],
        "line 3: the other question",
    ),
    "an MME line without an answer": ("mme", "OCR.txt", "1.jpg\tIs it so?\tYes\n", "line 1: it has 3 fields"),
    "no prediction": ("seed_bench", "s.jsonl", '{"question_id": "1", "gt_answer": "A"}\n', "line 1: it has no"),
    "a prediction that is null": ("pope", "p.jsonl", pope(("yes", "yes"), (None, "no")), "line 2: 'text' has no value"),
    "a prediction that is a list": ("seed_bench", "s.jsonl", seed((["A"], "A")), "line 1: 'prediction' is a list"),
    "a prediction that is NaN": ("seed_bench", "s.jsonl", seed((float("nan"), "A")), "line 1: 'prediction' has no value"),
    "a right answer that is none": ("seed_bench", "s.jsonl", seed(("A", "A"), ("A", "Z9")), "line 2: the right answer is 'Z9'"),
    "a tab too many": (
        "mmbench",
        "m.tsv",
        MMBENCH + "1\tWhat?\tx\ty\t\t\tA\tno\tA\n",
        "line 2: it has 9 fields, and line 1 names 8",
    ),
    "no right answers": ("pope", "p.jsonl", lines({"question_id": 1, "question": "Is it?", "text": "yes"}), "as --answers"),
    "deep": ("pope", "p.jsonl", '{"text": ' + "[" * 100_000, "line 1: it is nested too deeply"),
    "bytes": ("mmbench", "m.xlsx", b"PK\x03\x04" + bytes(range(256)), "cannot be read as an xlsx file"),
}


@pytest.mark.parametrize("case", SCORED)
def test_it_is_scored_by_the_rule(pargo, tmp_path, case):
    benchmark, name, content, figures = SCORED[case]
    status, printed, said = pargo("score", write(tmp_path, name, content), "--benchmark", benchmark, "--json")
    result = json.loads(printed)
    # of one subtask alone, and of answers of which the rule makes nothing
    assert (status, said.count("\n")) == (0, "missing_subtasks" in result or result.get("unmatched") == result["questions"])
    assert {key: result[key] for key in figures} == pytest.approx(figures, rel=1e-15)


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("form", [["--json"], []], ids=["json", "table"])
def test_it_is_refused_in_one_line(pargo, tmp_path, case, form):
    benchmark, name, content, why = REFUSED[case]
    file = tmp_path / name if content is None else write(tmp_path, name, content)
    status, printed, said = pargo("score", file, "--benchmark", benchmark, *form)
    assert (status, printed) == (2, "")
    assert said.startswith("pargo score: ")
    assert (said.count("\n"), said[-1]) == (1, "\n"), said
    assert str(file) in said
    assert why in said


def boxes(*answers):
    """Of a picture of 200 x 100 pixels, the box from (10, 20) to (30, 40)."""
    right = {"question": "a dog", "gt_bbox": [10, 20, 30, 40], "hw": [100, 200]}
    return lines(*({"id": number, **right, "answer": answer} for number, answer in enumerate(answers)))


@pytest.mark.parametrize(
    ("frame", "box"),
    [
        ("pixels", "[10,20,30,40]"),
        ("picture", "[0.05,0.2,0.15,0.4]"),
        # the square of 200 x 200 has 50 pixels above the picture
        ("padded", "[0.05,0.35,0.15,0.45]"),
        ("thousand", "[50,200,150,400]"),
    ],
)
def test_boxes_in_a_text_are_read_in_the_declared_frame(pargo, tmp_path, frame, box):
    texts = (
        f"The dog: {box}.",
        box.replace(",", ", "),
        f"{box} or [0,0,1,1]",
        "no idea",
        box.replace("]", ",0.9]"),
        box[:-1],
        "",
    )
    status, printed, _ = pargo(
        "score", write(tmp_path, "b.jsonl", boxes(*texts)), "--benchmark", "refcoco", "--frame", frame, "--json"
    )
    result = json.loads(printed)
    assert (status, result["frame"], result["accuracy"], result["unread"]) == (0, frame, 3 / 7, 4)


LABELS = lines(*({"question_id": n, "image": "1.jpg", "text": f"Is there a {n}?", "label": "yes"} for n in range(3)))


@pytest.mark.parametrize("shift", [0, 1, 20_000_000], ids=["same ids", "known ids of others", "unknown ids"])
def test_predictions_join_whatever_their_ids_are(pargo, tmp_path, shift):
    """Of three questions the first two get a yes; an id that is known but another question's would make that the last two."""
    said = [
        {
            "question_id": (n + shift) % 3 if shift < 3 else n + shift,
            "image": "1.jpg",
            "question": f"Is there a {n}?",
            "text": text,
        }
        for n, text in enumerate(("Yes", "Yes", "No"))
    ]
    file, answers = write(tmp_path, "p.jsonl", lines(*said)), write(tmp_path, "labels.json", LABELS)
    run = tmp_path / "run"
    status, printed, _ = pargo("score", file, "--benchmark", "pope", "--answers", answers, "--json", "--out", run)
    assert (status, json.loads(printed)["joined_by"]) == (0, "picture and question" if shift else "id")
    marks = [json.loads(line) for line in (run / "marks.jsonl").read_text().splitlines()]
    assert [(mark["question"], mark["value"]) for mark in marks] == [(f"Is there a {n}?", float(n < 2)) for n in range(3)]


def test_what_does_not_join_is_left_out_only_on_request(pargo, tmp_path):
    said = [{"question_id": n, "image": "1.jpg", "question": f"Is there a {n}?", "text": "Yes"} for n in (2, 3, 4)]
    words = ["score", write(tmp_path, "p.jsonl", lines(*said)), "--benchmark", "pope"]
    words += ["--answers", write(tmp_path, "labels.json", LABELS), "--json"]
    status, printed, refused = pargo(*words)
    assert (status, printed) == (2, "")
    assert "p.jsonl, line 2: no question has the id '3'; 2 of 3 predictions join no question by id. 2 of 3 questions" in refused
    status, printed, refused = pargo(*words, "--only-joined")
    result = json.loads(printed)
    assert (status, refused) == (0, "")
    assert {key: result[key] for key in ("questions", "unanswered", "unused")} == {"questions": 1, "unanswered": 2, "unused": 2}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--rule", "likelihood"], "--rule likelihood ranks the choices by their losses, and the predictions hold answers"),
        (["--rule", "first"], "--rule first: seed_bench has likelihood, letter"),
        (["--frame", "pixels"], "--frame is of boxes, and seed_bench has none"),
        (["--out", "{folder}"], "is there already; give one that is absent or empty"),
        (["--answers", "{folder}/absent"], "absent is neither a file nor a folder"),
        (["--grades", "{folder}/s.jsonl"], "grade"),
    ],
)
def test_what_a_benchmark_cannot_do_is_said(pargo, tmp_path, words, why):
    file = write(tmp_path, "s.jsonl", seed(("A", "A")))
    status, printed, said = pargo("score", file, "--benchmark", "seed_bench", *(word.format(folder=tmp_path) for word in words))
    assert (status, printed, said.count("\n")) == (2, "", 1)
    assert why in said


def test_a_run_is_scored_again_by_another_rule(pargo, tmp_path):
    """Five words in front of the letter: the rule of 2026 looks at the last of them, that of 2023 at any."""
    file = write(tmp_path, "m.tsv", MMBENCH + "1\tWhat?\tx\ty\t\t\tB is what I would choose here.\tB\n")
    first, again = tmp_path / "first", tmp_path / "again"
    assert pargo("score", file, "--benchmark", "mmbench", "--rule", "official-2023", "--out", first)[0] == 0
    assert pargo("score", first, "--benchmark", "mmbench", "--rule", "vlmevalkit-2026", "--out", again)[0] == 0
    results = [json.loads((folder / "result.json").read_text()) for folder in (first, again)]
    assert [(result["rule"], result["rows"]) for result in results] == [("official-2023", 1.0), ("vlmevalkit-2026", 0.0)]
    run = json.loads((again / "run.json").read_text())
    assert run["predictions"] == str(file)
    assert run["command"][:3] == ["pargo", "score", str(first)]
    assert (run["model"], run["weights"], run["data"]) == (None, None, None)


def test_the_object_is_all_that_is_printed(tmp_path):
    """A process of its own, as a script calls it."""
    file = write(tmp_path, "OCR.txt", mme("yes", "no"))
    command = [sys.executable, "-m", "pargo_mllm", "score", file, "--benchmark", "mme", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert done.stderr.startswith("pargo score: mme: 13 subtasks are missing (existence, ")
    assert json.loads(done.stdout)["perception"] == 200.0
