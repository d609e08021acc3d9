"""The report of runs: what its JSON and its page say is what the answers make, and what is not whole is refused by name."""

import json
import random
import shutil
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pargo_mllm.errors import UserError
from pargo_mllm.evaluation.benchmark import EvaluationError, ScoringError, accuracy
from pargo_mllm.evaluation.reporting.comparing import compare
from pargo_mllm.evaluation.reporting.report import told, write_report
from pargo_mllm.evaluation.runs.run_folder import read_run
from pargo_mllm.reports.page import PageError
from pargo_mllm.reports.statistics import codes, mean_estimate
from tests.mllm.made.evaluated import benchmark, both_right, drawn_marks, marked, red, write_run

HOSTILE = "<script>alert('x')</script> & \"q\" \ud800 \x00 \u202e"
TOY = benchmark()
PAIRS = benchmark("pairs", both_right, "points")
BENCHMARKS = {"toy": TOY, "pairs": PAIRS}


def better(marks, rate=0.3, seed=0):
    """The same questions, some of the wrong ones right."""
    rng = random.Random(f"better {seed}")
    return [replace(mark, value=max(mark.value, float(rng.random() < rate)), text="other") for mark in marks]


def reported(tmp_path, *folders, **options):
    compared = compare([read_run(folder) for folder in folders], BENCHMARKS.__getitem__)
    page, figures = write_report(compared, tmp_path / "out" / "report.html", **options)
    return compared, Page(page.read_text(encoding="utf-8")), json.loads(figures.read_text())


class Page(HTMLParser):
    """What a browser sees: words, tags that open and close, and where it would load something from."""

    VOID = ("meta", "img", "line", "rect", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.links, self.open, self.handlers, self.widths = [], [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.widths += [float(value) for name, value in attrs if (tag, name) == ("rect", "width")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


@pytest.fixture
def two(tmp_path):
    """The folders of two runs of the same questions."""
    marks = drawn_marks()
    return write_run(tmp_path / "first", marks, TOY), write_run(tmp_path / "second", better(marks), TOY, weights="11" * 32)


def test_the_json_holds_what_was_run_and_what_the_answers_make(two, tmp_path):
    _, page, found = reported(tmp_path, *two, difference=0.02)
    first = found["runs"][0]
    marks, more = drawn_marks(), better(drawn_marks())
    clusters = codes([mark.item.picture for mark in marks])
    expected = mean_estimate([mark.value for mark in marks], clusters)
    assert first["figure"]["value"] == expected.value
    assert first["figure"]["standard_error"] == pytest.approx(expected.error)
    assert first["figure"]["naive_standard_error"] == pytest.approx(expected.naive)
    assert first["figure"]["design_effect"] > 1.5
    assert (first["figure"]["questions"], first["figure"]["pictures"]) == (120, 40)
    for name in ("command", "model", "weights", "data", "prompt", "settings", "versions"):
        assert first[name] == json.loads((two[0] / "run.json").read_text())[name]
    assert first["result"] == json.loads((two[0] / "result.json").read_text())
    assert set(first["parts"]) == {"left", "right"}
    (one,) = found["comparisons"]
    gains = [b.value - a.value for a, b in zip(marks, more, strict=True)]
    paired = mean_estimate(gains, clusters)
    assert one["difference"]["value"] == pytest.approx(paired.value)
    assert one["difference"]["standard_error"] == pytest.approx(paired.error)
    assert (one["only_first_better"], one["only_other_better"]) == (0, sum(gains))
    assert (one["shared_questions"], one["within_noise"]) == (120, False)
    assert one["p_holm"] == one["p"] < 0.05
    assert one["needed"]["questions"] == paired.needed(0.02)[0]
    assert one["needed_for_what_was_seen"]["pictures"] == paired.needed(paired.value)[1]
    # the page says the same
    for words in (f"{expected.value:.4f}", f"± {expected.error:.4f}", f"± {expected.naive:.4f}", f"+{paired.value:.4f}"):
        assert words in page.text, words
    for words in ("beyond noise", f"{paired.needed(0.02)[0]:,}", f"{paired.needed(0.02)[1]:,}", "00ff" * 16, "1.2.3"):
        assert words in page.text, words
    assert "Holm" not in page.text, "one comparison is not several"


def test_a_run_against_itself_is_the_same(two, tmp_path):
    compared, page, found = reported(tmp_path, two[0], two[0])
    assert found["comparisons"][0]["within_noise"] is True
    assert found["comparisons"][0]["difference"]["standard_error"] is None
    assert "the same on every question" in page.text
    assert told(compared)[2].endswith("the same on every question")


def test_several_comparisons_are_adjusted(tmp_path):
    marks = drawn_marks(pictures=30)
    folders = [write_run(tmp_path / "base", marks, TOY)]
    folders += [write_run(tmp_path / f"run{n}", better(marks, 0.06, n), TOY) for n in range(5)]
    _, page, found = reported(tmp_path, *folders)
    p = [one["p"] for one in found["comparisons"]]
    assert len(p) == 5
    smallest = min(found["comparisons"], key=lambda one: one["p"])
    assert smallest["p_holm"] == pytest.approx(min(1, 5 * smallest["p"]))
    assert {one["first"] for one in found["comparisons"]} == {"base"}
    assert "5 comparisons" in page.text
    assert "Holm" in page.text


def test_several_benchmarks_and_rules_are_not_mixed(tmp_path):
    marks, pairs = drawn_marks(), drawn_marks(each_picture=2)
    folders = [
        write_run(tmp_path / "a" / "toy", marks, TOY),
        write_run(tmp_path / "a" / "pairs", pairs, PAIRS),
        write_run(tmp_path / "b" / "toy", better(marks), TOY, "lenient"),
        write_run(tmp_path / "b" / "pairs", better(pairs), PAIRS),
    ]
    compared, page, found = reported(tmp_path, *folders)
    (one,) = found["comparisons"]
    assert (one["benchmark"], one["figure"], one["difference"]["how"]) == ("pairs", "points", "jackknife")
    (note,) = found["notes"]
    assert "lenient of toy" in note
    assert note in page.text
    # folders of one name are told apart by their paths
    assert [run["name"] for run in found["runs"]] == [str(folder) for folder in folders]
    assert len(told(compared)) == 6


def test_runs_of_other_questions_meet_on_those_they_share(tmp_path):
    marks = drawn_marks()
    changed = [replace(better(marks)[20], item=replace(marks[20].item, answer="no")), *better(marks)[21:]]
    first, second = write_run(tmp_path / "first", marks[:100], TOY), write_run(tmp_path / "second", changed, TOY)
    _, page, found = reported(tmp_path, first, second)
    (one,) = found["comparisons"]
    assert (one["shared_questions"], one["only_asked_first"], one["only_asked_other"]) == (79, 21, 21)
    assert one["first_value"] == pytest.approx(sum(mark.value for mark in marks[21:100]) / 79)
    assert "compared on the 79 that both answered" in page.text
    assert "1 questions have the same id and another text or right answer" in page.text
    none = write_run(tmp_path / "third", [marked(1, "else", "p", answer="yes"), marked(0, "other", "q", answer="yes")], TOY)
    _, page, found = reported(tmp_path, first, none)
    assert found["comparisons"] == []
    assert "no question in common" in page.text


def test_what_was_done_otherwise_is_said(tmp_path):
    marks = drawn_marks()
    first = write_run(tmp_path / "first", marks, TOY)
    other = write_run(
        tmp_path / "second", better(marks), TOY, prompt="{question} Now!", settings={"batch_size": 8, "dtype": "bfloat16"}
    )
    _, page, found = reported(tmp_path, first, other)
    otherwise = found["comparisons"][0]["done_otherwise"]
    assert otherwise == [
        {"what": "dtype", "first": "float32", "other": "bfloat16"},
        {"what": "prompt", "first": "{question}", "other": "{question} Now!"},
    ]
    assert "first and second differ in dtype: float32 and bfloat16." in page.text


def test_whatever_a_run_holds_is_text(tmp_path):
    name = "<script>alert('x')</script>"
    marks = [
        marked(0, HOSTILE.replace("\ud800", ""), name, name, name, question=name, answer=[name], pictures=(red,)),
        marked(1, "fine", "p2", name, answer={"a": name}),
    ]
    folder = write_run(tmp_path / "<img src=x onerror=alert(1)>", marks, TOY, command=[name], prompt=name, model=name)
    other = write_run(tmp_path / "&amp;<b>", better(marks), TOY, settings={name: name}, data=name)
    _, page, _ = reported(tmp_path, folder, other)
    assert not {"script", "b", "i", "iframe", "object"} & set(page.tags)
    assert page.handlers == []
    assert page.links, "there is a picture"
    assert all(link.startswith(("data:image/jpeg;base64,", "data:image/png;base64,")) for link in page.links)
    assert page.text.count(name) > 5
    assert "\\x00" in page.text
    assert "\\u202e" in page.text


def test_failures_stand_with_what_was_asked_said_and_understood(tmp_path):
    marks = [
        marked(0, "q1", "p1", "colour", "Blue it is", question="What colour?", answer="red", pictures=(red,)),
        marked(1, "q2", "p2", "colour", "Right answer here", question="Which?", answer="x"),
    ]
    folder = write_run(tmp_path / "run", marks, TOY)
    (tmp_path / "run" / "failures" / "001.attention.png").write_bytes((tmp_path / "run" / "failures" / "001.jpg").read_bytes())
    entries = json.loads((folder / "failures.json").read_text())
    entries[0]["attention"] = "failures/001.attention.png"
    (folder / "failures.json").write_text(json.dumps(entries))
    _, page, _ = reported(tmp_path, folder)
    for words in ("What colour?", "red", "Blue it is", "q1"):
        assert words in page.words
    assert "Right answer here" not in page.text
    assert page.tags.count("img") == 2
    assert page.words.count("What the answer looked at") == 1
    assert page.tags.index("details") < len(page.tags) - 1 - page.tags[::-1].index("img"), "the second opens on a click"


def test_bars_are_as_long_as_the_parts(two, tmp_path):
    _, page, found = reported(tmp_path, *two)
    assert page.tags.count("svg") == 1
    values = [run["parts"][part]["value"] for part in ("left", "right") for run in found["runs"]]
    # two colours of the legend come first; the largest value and its whisker end below a round number
    assert np.array(page.widths[2:]) / page.widths[2] == pytest.approx(np.array(values) / values[0], abs=2e-3)
    for run in found["runs"]:
        for part in run["parts"].values():
            assert f"{part['value']:.4f} ± {part['standard_error']:.4f}" in page.words


def test_figures_that_cannot_be_computed_again_say_so(tmp_path):
    def needs_more(marks):
        return {"points": sum(mark.extra["lengths"][0] for mark in marks)}

    bench = benchmark("toy", needs_more, "points")
    # a set is no JSON: the folder cannot hold it
    marks = [replace(mark, extra={"lengths": [2], "words": {"a"}}) for mark in drawn_marks()]
    folder = write_run(tmp_path / "run", marks, bench)
    compared = compare([read_run(folder)], {"toy": bench}.__getitem__)
    assert compared.measured[0].headline.error is None
    write_report(compared, tmp_path / "report.html")
    assert "does not hold all that points reads" in Page((tmp_path / "report.html").read_text()).text
    kept = write_run(tmp_path / "kept", [replace(mark, extra={"lengths": (2,)}) for mark in marks], bench)
    assert read_run(kept).marks[0].extra == {"lengths": [2]}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "x", "p1", HOSTILE, "0-0", "failures/001.jpg"]),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(["a", "accuracy", "left", HOSTILE]), inside, max_size=3)
    ),
    max_leaves=6,
)
PLACES = st.sampled_from(
    [
        *(("run.json", key) for key in ("command", "settings", "prompt", "versions", "model", "seconds")),
        *(("result.json", key) for key in ("accuracy", "parts", "subtasks", "prompt", "judge", "questions")),
        *(("marks.jsonl", key) for key in ("answer", "details", "extra", "value", "said", "picture", "part", "id", "question")),
        *(("failures.json", key) for key in ("id", "picture", "attention", "reason")),
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.dictionaries(PLACES, JSON, min_size=1, max_size=4))
def test_whatever_stands_anywhere_is_told_or_refused(tmp_path, changes):
    """Any JSON in any place of a run's files: a page that opens, or a message."""
    marks = [marked(n % 2, f"{n}-0", f"p{n}", "left", answer="yes", pictures=(red,)) for n in range(6)]
    shutil.rmtree(tmp_path, ignore_errors=True)
    first, second = write_run(tmp_path / "first", marks, TOY), write_run(tmp_path / "second", better(marks), TOY)
    for (name, key), value in changes.items():
        lines = (second / name).read_text().splitlines() if name == "marks.jsonl" else [(second / name).read_text()]
        content = json.loads(lines[0])
        (content[0] if name == "failures.json" else content)[key] = value
        (second / name).write_text("\n".join([json.dumps(content), *lines[1:]]))
    said = str(second)
    try:
        reported(tmp_path, first, second)
    except UserError as error:
        said = str(error)
    assert str(second) in said


def line(folder, number, **changes):
    lines = (folder / "marks.jsonl").read_text().splitlines()
    lines[number - 1] = json.dumps({**json.loads(lines[number - 1]), **changes})
    (folder / "marks.jsonl").write_text("\n".join(lines) + "\n")


def spoil(folder, name, text):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


DAMAGES = {
    "no run.json": (lambda f: (f / "run.json").unlink(), r"run\.json cannot be read: No such file"),
    "no result.json": (lambda f: (f / "result.json").unlink(), r"result\.json cannot be read"),
    "no marks.jsonl": (lambda f: (f / "marks.jsonl").unlink(), r"marks\.jsonl cannot be read"),
    "half a result": (lambda f: spoil(f, "result.json", '{"benchmark": "to'), r"result\.json, line 1"),
    "a list as result": (lambda f: spoil(f, "result.json", "[]"), r"result\.json holds no object"),
    "NaN": (lambda f: spoil(f, "result.json", '{"a": Infinity}'), r"result\.json.*not finite"),
    "deep": (lambda f: spoil(f, "run.json", '{"a":' + "[" * 60 + "]" * 60 + "}"), r"run\.json.*32 deep"),
    "deeper": (lambda f: spoil(f, "run.json", "[" * 100_000), r"run\.json.*too deeply"),
    "latin": (lambda f: spoil(f, "run.json", b'{"a": "\xe9"}'), r"run\.json, line 1.*UTF-8"),
    "half a line": (lambda f: spoil(f, "marks.jsonl", (f / "marks.jsonl").read_bytes()[:-40]), r"marks\.jsonl, line 120"),
    "a line less": (
        lambda f: spoil(f, "marks.jsonl", b"".join((f / "marks.jsonl").read_bytes().splitlines(True)[:-1])),
        r"marks\.jsonl has 119 answers and result\.json beside it says 120",
    ),
    "empty": (lambda f: spoil(f, "marks.jsonl", ""), r"marks\.jsonl, line 1: it is empty"),
    "a number": (lambda f: spoil(f, "marks.jsonl", "7\n"), r"marks\.jsonl, line 1: it is no answer with an id"),
    "value 2": (lambda f: line(f, 3, value=2), r"marks\.jsonl, line 3: it has the value 2"),
    "value true": (lambda f: line(f, 3, value=True), r"line 3: it has the value True"),
    "value text": (lambda f: line(f, 3, value="1"), r"line 3: it has the value '1'"),
    "said a list": (lambda f: line(f, 4, said=["x"]), r"line 4: it has said \['x'\]; it must be a text"),
    "twice": (lambda f: line(f, 2, id="0-0"), r"line 2: it has the id '0-0', which another line has"),
    "other answers": (lambda f: [line(f, n, value=1) for n in range(1, 121)], r"says accuracy 0\.\d+.*make 1: they are not"),
    "other rule": (
        lambda f: spoil(f, "run.json", '{"benchmark": "toy", "rule": "lenient"}'),
        r"rule 'lenient'.*not of one run",
    ),
    "failures object": (lambda f: spoil(f, "failures.json", "{}"), r"failures\.json holds no list"),
    "failures of nobody": (lambda f: spoil(f, "failures.json", '[{"id": "x"}]'), r"failures\.json tells of 'x'"),
    "out of the folder": (
        lambda f: spoil(f, "failures.json", '[{"id": "0-0", "picture": "../../etc/passwd"}]'),
        r"failures\.json names '\.\./\.\./etc/passwd'; it must be a file of the folder",
    ),
    "absolute": (
        lambda f: spoil(f, "failures.json", '[{"id": "0-0", "picture": "/etc/passwd"}]'),
        r"must be a file of the folder",
    ),
    "by a link": (
        lambda f: [
            (f / "failures" / "x.jpg").symlink_to("/etc/hostname"),
            spoil(f, "failures.json", '[{"id": "0-0", "attention": "failures/x.jpg"}]'),
        ],
        r"leads out of the folder",
    ),
    "picture gone": (
        lambda f: spoil(f, "failures.json", '[{"id": "0-0", "picture": "failures/9.jpg"}]'),
        r"'failures/9\.jpg', which is not there",
    ),
    "no picture": (
        lambda f: [
            spoil(f, "failures/1.jpg", "GIF89a<script>"),
            spoil(f, "failures.json", '[{"id": "0-0", "picture": "failures/1.jpg"}]'),
        ],
        r"failures/1\.jpg cannot be read as a picture",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_whole_is_refused_by_name(two, tmp_path, damage):
    spoiled, message = DAMAGES[damage]
    spoiled(two[1])
    with pytest.raises(ValueError, match=message) as error:
        reported(tmp_path, *two)
    assert str(two[1]) in str(error.value)
    assert not (tmp_path / "out" / "report.html").exists()


def test_unknown_names_are_refused(tmp_path):
    marks = drawn_marks()
    folder = write_run(tmp_path / "run", marks, TOY)
    with pytest.raises(ScoringError, match="strict: toy has exact, lenient"):
        compare([replace(read_run(folder), result={**read_run(folder).result, "rule": "strict"})], BENCHMARKS.__getitem__)
    with pytest.raises(EvaluationError, match="has no points"):
        compare([read_run(folder)], lambda name: benchmark("toy", accuracy, "points"))
    with pytest.raises(EvaluationError, match="is no folder"):
        read_run(tmp_path / "nothing")
    compared = compare([read_run(folder)], BENCHMARKS.__getitem__)
    with pytest.raises(EvaluationError, match="give one of them another name"):
        write_report(compared, tmp_path / "x.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot be written"):
        write_report(compared, tmp_path / "file" / "x.html")
    # neither the page nor the figures take the place of something else; of a report, again
    for name in ("list.html", "list.json"):
        (tmp_path / name).write_text("[1]")
        with pytest.raises(PageError, match=f"{name} is no .* of pargo"):
            write_report(compared, tmp_path / "list.html")
        assert (tmp_path / name).read_text() == "[1]"
        (tmp_path / name).unlink()
        write_report(compared, tmp_path / "list.html")
        (tmp_path / "list.html").unlink()


def test_the_same_runs_give_the_same_files(two, tmp_path):
    write = partial(reported, tmp_path, *two, difference=0.01)
    write()
    first = [file.read_bytes() for file in sorted((tmp_path / "out").iterdir())]
    write()
    assert [file.read_bytes() for file in sorted((tmp_path / "out").iterdir())] == first
    assert len(first) == 2
