"""Files of every benchmark, damaged anywhere: ``pargo score`` ends with an object or with a line that says why not."""

import copy
import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pargo_mllm.evaluation.benchmark import Prediction
from pargo_mllm.evaluation.benchmarks import find
from tests.mllm.made import benchmark_files_choices, benchmark_files_texts
from tests.mllm.made.benchmark_files_judged import write_llava_bench, write_mm_vet
from tests.mllm.made.command_line import ended

WRITERS = {
    **benchmark_files_choices.WRITERS,
    **benchmark_files_texts.WRITERS,
    "mm_vet": lambda folder, form: write_mm_vet(folder),
    "llava_bench": lambda folder, form: write_llava_bench(folder),
}
TEXTS = (".json", ".jsonl", ".tsv", ".csv", ".txt")
HOSTILE = (
    *(None, True, -1, 1.5, 1e308, float("nan"), float("inf"), 10**250, "", "no idea", "A person", "a\tb\nc", "nan", "9" * 60),
    *("[0.1,0.2,0.3,0.4]", "[1,2", "\ud83d", "\0", [], [None], [[1]], ["a"], [1, 2, 3, 4], {}, {"a": None}, {"A": 1.0}),
)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Of each benchmark its own files in a folder, with predictions in its own format, and grades where a judge gives them."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name.replace("+", "_plus"))
            benchmark, data = find(name), WRITERS[name](folder / "data", "official")
            items = benchmark.read(data)
            said = [Prediction(str(item.answer), "here", item.id, item=item) for item in items]
            file = benchmark.submission(said, folder / "said")
            grades = folder / "grades.jsonl"
            grades.write_text("".join(json.dumps({"question_id": item.id, "score": [0.5]}) + "\n" for item in items))
            made[name] = (folder, data, file)
        return made[name]

    return get


def leaves(value, path=()):
    """Where the values of a JSON value stand."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield path
    for key, one in pairs:
        yield from leaves(one, (*path, key))


def put(value, path, other):
    if not path:
        return other
    changed = copy.deepcopy(value)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = other
    return changed


def damaged(data, content, lines):
    """The bytes of a file with one thing in them changed."""
    kind = data.draw(st.sampled_from(["value", "value", "bytes", "cut", "twice"]))
    at = data.draw(st.integers(0, max(len(content) - 1, 0)))
    if kind == "value":
        try:
            values = [json.loads(line) for line in content.decode().splitlines()] if lines else json.loads(content)
        except ValueError:
            kind = "bytes"
        else:
            places = list(leaves(values))
            values = put(values, data.draw(st.sampled_from(places)), data.draw(st.sampled_from(HOSTILE)))
            if lines and isinstance(values, list):
                return "\n".join(map(json.dumps, values)).encode()
            return json.dumps(values).encode()
    if kind == "cut":
        return content[:at]
    if kind == "twice":
        return content[:at] + content[at // 2 :]
    piece = data.draw(st.sampled_from([b"\xff", b"\0", b"\n", b"\t", b'"', b",", b"[", b"{", b"\xe9", b"", "\u2028".encode()]))
    return content[:at] + piece + content[at + 1 :]


@pytest.mark.parametrize("examples", [12, pytest.param(500, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", WRITERS)
def test_whatever_is_damaged(name, examples, sets, capsys, tmp_path):
    folder, data_path, said = sets(name)

    @settings(max_examples=examples, deadline=None, derandomize=examples < 500, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data):
        here = tmp_path / "here"
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(folder, here)
        files = sorted(file for file in here.rglob("*") if file.suffix in TEXTS and file.stat().st_size)
        file = data.draw(st.sampled_from(files))
        file.write_bytes(damaged(data, file.read_bytes(), file.suffix == ".jsonl"))
        words = [
            here / said.relative_to(folder),
            "--benchmark",
            name,
            "--answers",
            here / data_path.relative_to(folder),
            "--json",
        ]
        words += ["--frame", "pixels"] if name.startswith("refcoco") else []
        words += ["--grades", here / "grades.jsonl"] if name in ("mm_vet", "llava_bench") else []
        words += ["--only-joined"] if data.draw(st.booleans()) else []
        done = ended(capsys, "score", *words)
        assert all(line.startswith("pargo score: ") for line in done.said.splitlines()), done.said
        if done.status == 0:
            assert json.loads(done.printed, parse_constant=pytest.fail)["benchmark"] == name
        else:
            assert (done.status, done.printed) == (2, "")
            assert done.said.endswith("\n")

    check()
