"""``pargo eval`` on miniature sets of every benchmark: the same predictions whatever the batch, sharing and processes."""

import json
import socket
import time

import pytest
from openpyxl import load_workbook

from pargo_cli.benchmarks import BENCHMARKS
from pargo_mllm.cli import main
from pargo_mllm.evaluation.benchmarks import find
from pargo_mllm.evaluation.runs.journal import Journal
from pargo_mllm.loading import save_model
from tests.mllm.made.evaluations import write_set
from tests.mllm.made.fork_server import ForkServer
from tests.mllm.made.miniature_families import make_family

# two questions a picture; likelihoods; boxes; the rest takes too long for every run
FEW = ("mme", "seed_bench", "refcoco")
EACH = [name if name in FEW else pytest.param(name, marks=pytest.mark.long) for name in BENCHMARKS]
FORMS = ("official", "tsv", "parquet")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(*make_family("qwen"), folder)
    return folder


@pytest.fixture(scope="module")
def server():
    with ForkServer({"HF_HUB_OFFLINE": "1"}) as server:
        yield server


def command(model, name, data, run, *more):
    return [
        "eval",
        str(model),
        "--benchmark",
        name,
        "--data",
        str(data),
        "--out",
        str(run),
        "--device",
        "cpu",
        "--failures",
        "0",
        *more,
    ]


def content(file):
    """The bytes of a file; of a sheet, which holds the time at which it was written, its rows."""
    if file.suffix != ".xlsx":
        return file.read_bytes()
    return list(load_workbook(file).active.iter_rows(values_only=True))


def outcome(run):
    """(predictions, figures): the files of the submission, and the result without what tells how it was computed."""
    about = json.loads((run / "run.json").read_text())
    path = run / about["predictions"]
    files = {file.name: content(file) for file in (sorted(path.iterdir()) if path.is_dir() else [path])}
    result = json.loads((run / "result.json").read_text()) if (run / "result.json").exists() else None
    return files, result and {key: value for key, value in result.items() if key not in ("batch_size", "versions")}


@pytest.mark.parametrize("name", EACH)
def test_predictions_do_not_depend_on_batches_and_sharing(model, name, tmp_path, capsys):
    data = write_set(name, tmp_path / "data")
    runs = {
        "one": ("--batch-size", "1"),
        "two": ("--batch-size", "2"),
        "many": ("--batch-size", "32"),
        "whole": ("--batch-size", "1", "--no-shared-prefix"),
        "whole, many": ("--batch-size", "32", "--no-shared-prefix"),
    }
    outcomes = {}
    for run, options in runs.items():
        assert main(command(model, name, data, tmp_path / run, *options, "--json")) == 0, capsys.readouterr().err
        printed = capsys.readouterr().out
        outcomes[run] = outcome(tmp_path / run)
        judged = any(rule.needs_grades for rule in find(name).rules)
        assert (printed == "") is judged
        assert outcomes[run][0]
        if not judged:
            assert json.loads(printed)["benchmark"] == name
    about = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert {"pargo", "python", "torch", "transformers"} <= about["versions"].keys()
    settings = about["settings"]
    assert (settings["share"], json.loads((tmp_path / "one" / "run.json").read_text())["settings"]["share"]) == (False, True)
    if name == "seed_bench":
        marks = [json.loads(line) for line in (tmp_path / "one" / "marks.jsonl").read_text().splitlines()]
        assert all(mark["asked"] == mark["question"] for mark in marks), "choices are ranked behind the bare question"
        # losses are the same to rounding, letters altogether
        assert len({str(figures) for _, figures in outcomes.values()}) == 1
        outcomes = {run: ([letters(files), figures]) for run, (files, figures) in outcomes.items()}
    assert all(one == outcomes["one"] for one in outcomes.values())


def letters(files):
    return [json.loads(line)["prediction"] for content in files.values() for line in content.splitlines()]


@pytest.mark.parametrize("name", EACH)
def test_every_form_of_a_set_is_asked_and_scored(model, name, tmp_path, capsys):
    for form in FORMS:
        data = write_set(name, tmp_path / form, form)
        run = tmp_path / f"run-{form}"
        assert main(command(model, name, data, run)) == 0, capsys.readouterr().err
        files, figures = outcome(run)
        assert files
        if figures is None:
            continue
        shown = capsys.readouterr().out
        assert find(name).title in shown
        # its own predictions, as it submits them, score the same
        headline = find(name).headline
        words = ["score", str(run), "--benchmark", name, "--rule", figures["rule"], "--json"]
        assert main(words) == 0 or main([*words, "--answers", str(data)]) == 0, capsys.readouterr().err
        again = json.loads(capsys.readouterr().out)
        assert again[headline] == figures[headline]


@pytest.mark.parametrize("name", EACH)
def test_goes_on_after_kill(server, model, name, tmp_path):
    data = write_set(name, tmp_path / "data")
    words = ("--batch-size", "1", "--max-new-tokens", "24")
    log = tmp_path / "log"
    assert server.start(command(model, name, data, tmp_path / "whole", *words), log).wait() == 0, log.read_text()
    whole = (tmp_path / "whole" / "answers-0.jsonl").read_bytes().split(b"\n")
    asked = sum(bool(line) for line in whole)
    assert asked > 2
    run = tmp_path / "killed"
    process, journal = server.start(command(model, name, data, run, *words), log), run / "answers-0.jsonl"
    while process.is_alive() and (not journal.exists() or journal.read_bytes().count(b"key") < 2):
        time.sleep(0.0005)
    process.kill()
    assert process.wait() in (-9, 0)
    kept = journal.read_bytes().count(b'"key"')
    assert server.start(command(model, name, data, run, *words), log).wait() == 0, log.read_text()
    assert json.loads((run / "run.json").read_text())["kept_before"] in (kept, kept - 1)
    assert outcome(run) == outcome(tmp_path / "whole")
    # nothing was asked twice
    assert sum(bool(line) for line in journal.read_bytes().split(b"\n")) in (asked, asked + 1)


@pytest.mark.parametrize("name", EACH)
def test_two_processes_share_the_work(server, model, name, tmp_path):
    data = write_set(name, tmp_path / "data")
    log = tmp_path / "log"
    assert server.start(command(model, name, data, tmp_path / "one"), log).wait() == 0, log.read_text()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    both = [
        server.start(
            command(model, name, data, tmp_path / "two"), tmp_path / f"log{r}", RANK=str(r), LOCAL_RANK=str(r), **shared
        )
        for r in range(2)
    ]
    assert [process.wait() for process in both] == [0, 0], [(tmp_path / f"log{r}").read_text() for r in range(2)]
    (two, figures), (one, expected) = outcome(tmp_path / "two"), outcome(tmp_path / "one")
    assert figures == expected
    # losses are the same to rounding, letters altogether
    assert letters(two) == letters(one) if name == "seed_bench" else two == one
    assert json.loads((tmp_path / "two" / "run.json").read_text())["settings"]["processes"] == 2
    assert sorted(file.name for file in (tmp_path / "two").glob("answers-*")) == ["answers-0.jsonl", "answers-1.jsonl"]
    assert "%" not in (tmp_path / "log1").read_text(), "the first process alone speaks"


def test_another_run_is_not_written_over(model, tmp_path, capsys):
    data = write_set("mme", tmp_path / "data")
    run = tmp_path / "run"
    assert main(command(model, "mme", data, run)) == 0
    before = outcome(run)
    capsys.readouterr()
    assert main(command(model, "scenes", "scenes:held_out=1", run)) == 2
    assert "holds another run (benchmark mme there and scenes here" in capsys.readouterr().err
    assert outcome(run) == before
    # the same one goes on: everything is kept
    assert main(command(model, "mme", data, run, "--batch-size", "3")) == 0
    assert outcome(run) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--benchmark", "mmee"], "--benchmark mmee: there are mme, mmbench"),
        (["--benchmark", "mme"], "--benchmark mme needs --data"),
        (["--benchmark", "mme", "--data", "nowhere"], "--data nowhere does not exist"),
        (["--benchmark", "seed_bench", "--rule", "letters"], "--rule letters: seed_bench has likelihood, letter"),
        (["--benchmark", "scenes", "--judge", "gpt", "--judge-url", "nowhere"], "is no address of an endpoint"),
        (["--benchmark", "mm_vet", "--data", ".", "--grades", "gone.json"], "--grades gone.json is not there: give the file"),
        (["--benchmark", "scenes", "--data", "pictures"], "--data pictures: scenes are drawn, not read"),
    ],
)
def test_what_cannot_be_evaluated_is_said(model, options, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", str(model), *options]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_one_run_at_a_time_is_at_work_in_a_folder(model, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    held = Journal(tmp_path / "run")
    words = command(model, "scenes", "scenes:held_out=1", tmp_path / "run")
    assert main(words) == 2
    assert "another pargo eval is at work in it" in capsys.readouterr().err
    held.close()
    assert main(words) == 0


def test_a_folder_that_cannot_be_written_is_said(model, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(command(model, "scenes", "scenes:held_out=1", tmp_path / "file" / "run")) == 2
    assert capsys.readouterr().err.strip().endswith("what was answered is kept.")


def test_what_is_secret_in_a_judges_address_is_not_written_down(model, tmp_path):
    words = command(model, "scenes", "scenes:held_out=1", tmp_path / "run")
    for address in (["--judge-url", "http://me:SECRET@host/v1?api-key=SECRET"], ["--judge-url=https://host/v1?api-key=SECRET"]):
        assert main([*words, *address]) == 0
        assert "SECRET" not in (tmp_path / "run" / "run.json").read_text()
