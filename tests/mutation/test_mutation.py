"""The mutation run itself: what it changes, what it finds, what it keeps."""

import json
import shutil
from pathlib import Path

import pytest

from tests.mutation import c_source, command, python_source, running
from tests.mutation.mutant import Mutant
from tests.mutation.targets import TARGETS, Target

SMALL = '''"""Never changed: 1 < 2."""
def smallest(numbers: list[int], low: int = 0) -> int:
    while numbers and len(numbers) > 1:
        numbers = numbers[:-1] if numbers[0] < numbers[-1] else numbers[1:]
    return max(numbers[0], low)
'''
SMALL_TEST = """
from pargo_kernels.small import smallest

def test_smallest():
    assert smallest([3, 1, 2]) == 1
    assert smallest([-1, 4]) == 0
"""


def changes(module, source):
    return [(mutant.number, mutant.change, mutant.apply(source)) for mutant in module.mutants("file", source)]


@pytest.mark.parametrize(
    ("source", "expected"),
    (
        ("x = a < b", ["x = a <= b"]),
        ("x = a not in b", ["x = a in b"]),
        ("x = (a + b) * c", ["x = (a + b) + c", "x = (a - b) * c"]),
        ("x = 3", ["x = 2", "x = 4"]),
        ("x = f(True, 0.5)", ["x = f(False, 0.5)", "x = f(True, 1.5)"]),
        ("x -= y", ["pass", "x += y"]),
        ("f(x)", ["pass"]),
        ("x = not a", ["x = (a)"]),
        ("x = a and b or c", ["x = a and b and c", "x = a or b or c"]),
        ("x = t.clamp(min=a)", ["x = t.clamp(max=a)"]),
        ("x = tl.minimum(a, b)", ["x = tl.maximum(a, b)"]),
        ("x = where(c, a, b)", ["x = where(c, b, a)"]),
        ("if a: f = b", ["if False: f = b", "if True: f = b"]),
        ("while a:\n    continue", ["while False:\n    continue", "while a:\n    pass"]),
        ('def f(a="x"): return a', ['def f(a="mutant"): return a']),
        ('x = "ä"; y = a - b', ['x = "ä"; y = a + b']),
        # said, not done
        ('"""1 < 2"""', []),
        ("x: Literal[1]", []),
        ('raise ValueError(f"{1 + 2}")', []),
        ("import a.b as c", []),
        ("@cache(1)\ndef f(): ...", []),
    ),
)
def test_what_is_changed_in_python(source, expected):
    assert sorted(text for _, _, text in changes(python_source, source)) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    (
        ("int f(int a) { return a < 2; }", {"a <= 2", "a < 1", "a < 3"}),
        ("void f(float *a, int64_t *b) { *a += *b; }", {"*a -= *b"}),
        ("int x = a * b->c - 1;", {"a + b->c - 1", "a * b->c + 1", "a * b->c - 0", "a * b->c - 2"}),
        ("void f() { g(x); }", {"{ ; }"}),
        ("void f() { x[i] = y; }", {"{ ; }"}),
        ("void f() { int x = y; Call *z = y; }", set()),
        ("void f() { if (a == b) return; }", {"if (a != b)", "if (!(a == b))", "if (0)"}),
        ("x = a ? b : c;", {"a && 0 ? b", "a || 1 ? b"}),
        ("x = min(a, &b);", {"max(a, &b)"}),
        ("x = 0.5f;", {"(0.5f * 1.01f + 1e-3f)"}),
        ("x = !a;", {"x = a;"}),
        ("for (int i = 0; i < n; i++) __builtin_prefetch(x + 4 * i);", set()),
        ('/* a < b */ // c < d\n#define X 3\nchar *s = "1 < 2";', set()),
    ),
)
def test_what_is_changed_in_c(source, expected):
    found = changes(c_source, source)
    assert len(found) == len(expected)
    assert all(any(part in text for _, _, text in found) for part in expected), found


@pytest.mark.parametrize("name", TARGETS)
def test_the_targets_are_there_and_their_mutants_are_programs(name):
    target = TARGETS[name]
    mutants = running.mutants_of(command.ROOT, target)
    assert {mutant.file for mutant in mutants} == set(target.files)
    for mutant in mutants[::20] if target.files[0].endswith(".py") else ():
        compile(mutant.apply((command.ROOT / mutant.file).read_text()), mutant.file, "exec")
    assert all((command.ROOT / test.split("::")[0]).exists() for test in target.arguments if test.startswith("tests/"))
    # an equivalent mutant that is none any more hides what it once described
    assert command.Equivalents(command.EQUIVALENTS).stale(mutants, target) == []


@pytest.fixture
def project(tmp_path):
    """A package of one small file and its test."""
    files = {"pargo_kernels/__init__.py": "", "pargo_kernels/small.py": SMALL, "tests/__init__.py": ""}
    files |= {"tests/kernels/conftest.py": "", "tests/kernels/test_small.py": SMALL_TEST}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    shutil.copytree(Path(command.__file__).parent, tmp_path / "tests/mutation", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


TARGET = Target(("pargo_kernels/small.py",), ("tests/kernels/test_small.py",), {}, ("pytest",))


def test_one_is_killed_one_survives_and_one_hangs(project):
    mutants = {(mutant.line.split()[0], mutant.change): mutant for mutant in running.mutants_of(project, TARGET)}
    # of one that is left, the first is the last; a list from 0 on never becomes shorter
    expected = {("return", "max → min"): "killed", ("return", "0 → (-1)"): "survived", ("numbers", "1 → 0 (3)"): "hung"}
    worker = running.Worker(project, project / "scratch", TARGET)
    try:
        for key, result in expected.items():
            seconds = 0.5 if result == "hung" else 60.0
            assert running.judge(project, worker, mutants[key], seconds).result == result
            assert (project / "scratch/pargo_kernels/small.py").read_text() == SMALL
    finally:
        worker.close()
    assert (project / "pargo_kernels/small.py").read_text() == SMALL


def test_tests_that_fail_without_a_mutant_judge_none(project):
    (project / "tests/kernels/test_small.py").write_text("def test(): assert False")
    mutants = running.mutants_of(project, TARGET)
    with pytest.raises(RuntimeError, match="without a mutant the tests end with status 1"):
        list(running.run_mutants(project, project / "scratch", TARGET, mutants, 1))


def test_equal_seeds_draw_equal_mutants_and_equivalents_are_left_out():
    mutants = running.mutants_of(command.ROOT, TARGETS["intervals"])
    assert command.drawn(mutants, set(), 10, 3) == command.drawn(mutants, set(), 10, 3)
    assert command.drawn(mutants, set(), 10, 3) != command.drawn(mutants, set(), 10, 4)
    assert len(command.drawn(mutants, set(), 10, 3)) == 10
    assert command.drawn(mutants, {mutants[0].name}, 0, 0) == [m for m in mutants if m.name != mutants[0].name]


def test_a_stale_equivalent_is_named(tmp_path):
    entry = {"file": "pargo_kernels/merge.py", "line": "blind = total == 0", "why": "for this test"}
    path = tmp_path / "equivalents.json"
    path.write_text(json.dumps([entry | {"change": ["== → !=", "== → <"]}]))
    stale = command.Equivalents(path).stale(running.mutants_of(command.ROOT, TARGETS["merge"]), TARGETS["merge"])
    assert stale == ["pargo_kernels/merge.py: blind = total == 0: == → <"]


def test_an_entry_without_a_change_is_all_mutants_of_its_line(tmp_path):
    mutants = running.mutants_of(command.ROOT, TARGETS["merge"])
    path = tmp_path / "equivalents.json"
    path.write_text(json.dumps([{"file": "pargo_kernels/merge.py", "line": "blind = total == 0", "why": "for this test"}]))
    found = command.Equivalents(path).among(mutants)
    assert found == {mutant.name for mutant in mutants if mutant.line == "blind = total == 0"}
    assert len(found) > 1
    path.write_text(json.dumps([{"file": "pargo_kernels/merge.py", "line": "no line", "why": "for this test"}]))
    assert command.Equivalents(path).stale(mutants, TARGETS["merge"]) == ["pargo_kernels/merge.py: no line: all"]


def test_results_outlive_a_run_that_was_killed_and_not_a_change(tmp_path):
    mutant, path = Mutant("a.py", 3, 4, "2", "x = 1", "1 → 2", 1), tmp_path / "results.jsonl"
    command.Results(path, False).add("digest", running.Outcome(mutant, running.KILLED, 1.5))
    with path.open("a") as file:
        file.write('{"of": "digest", "pla')
    again = command.Results(path, False)
    assert again.get("digest", mutant) == running.Outcome(mutant, running.KILLED, 1.5)
    assert again.get("digest", mutant._replace(replacement="0")) is None
    assert again.get("another digest", mutant) is None
    assert command.Results(path, True).get("digest", mutant) is None


def test_what_follows_from_the_files_is_told_apart_by_their_contents(project):
    digests = [running.digest(project, TARGET), running.digest(project, TARGET)]
    assert digests[0] == digests[1]
    for file in ("pargo_kernels/small.py", "tests/kernels/test_small.py"):
        (project / file).write_text((project / file).read_text() + "\n")
        digests.append(running.digest(project, TARGET))
    assert len(set(digests)) == 3
