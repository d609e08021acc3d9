"""Official files in which anything stands anywhere: every entry is a record that training can use, or counted, or one line of
an error says which file is none."""

import json
import pickle
import random
import shutil

import pytest

from pargo_cli.data_sets import DATA_SETS
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.preparation.data_set import Options
from pargo_mllm.data.preparation.run import Form, prepare
from pargo_mllm.data.preparation.sets import find
from pargo_mllm.errors import UserError
from pargo_mllm.jobs import engine_of
from tests.mllm.made.official import write

ANYTHING = (
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    10**400,
    "",
    " ",
    "\ud83d",
    "\0",
    "../x",
    "/etc/passwd",
    "<image>",
    "x" * 3000,
)
ANYTHING += ([], {}, [None], [[]], {"": None}, "12", 12, 1.5, "ﬁ\u202e")


def damaged(value, rng, share):
    """The same with other values at some of its places."""
    if rng.random() < share:
        return rng.choice(ANYTHING)
    if isinstance(value, list):
        told = [damaged(one, rng, share) for one in value]
        return told + rng.sample(told, 1) if told and rng.random() < share else told
    if isinstance(value, dict):
        return {key: damaged(one, rng, share) for key, one in value.items() if rng.random() > share / 4}
    return value


def damage(folder, rng, share):
    """Damage the values of all files in a folder, not their outermost form."""
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".json":
            told = json.loads(file.read_text())
            if isinstance(told, list):
                told = [damaged(one, rng, share) for one in told]
            else:
                told = {
                    key: [damaged(one, rng, share) for one in value] if isinstance(value, list) else damaged(value, rng, share)
                    for key, value in told.items()
                }
            file.write_text(json.dumps(told))
        elif file.suffix == ".jsonl":
            rows = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
            file.write_text("".join(json.dumps(damaged(row, rng, share)) + "\n" for row in rows) + "\ufeff\r\n\x00\n")
        elif file.suffix == ".p":
            refs = pickle.loads(file.read_bytes())
            file.write_bytes(pickle.dumps([damaged(ref, rng, share) for ref in refs], protocol=2))


def attempt(name, source, out):
    """(what was made, or None; the error)."""
    try:
        return prepare(find(name), source, out, Options(), Form(), engine_of("local", 1)), ""
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", DATA_SETS)
def test_every_entry_is_usable_or_counted(name, seed, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write(name, source)
    damage(source, random.Random(f"{name}{seed}"), (0.02, 0.15)[seed])
    about, error = attempt(name, source, tmp_path / "out")
    if about is None:
        assert len(error.splitlines()) == 1
        return
    assert about["entries"] == about["records"] + sum(about["skipped"].values())
    if about["records"]:
        corpus = open_corpus(tmp_path / "out", 2)
        assert len(corpus) == about["records"]
        assert not corpus.skipped
        for index in range(len(corpus)):
            assert all(picture().size for picture in corpus[index].pictures)
        ids = [json.loads(line.rstrip(",\n"))["id"] for line in (tmp_path / "out" / "data.json").read_text().splitlines()[1:-1]]
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", DATA_SETS)
def test_absent_and_broken_files_are_named(name, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write(name, source)
    files = [file for file in sorted(source.rglob("*")) if file.suffix in (".json", ".p", ".jsonl")]
    for number, file in enumerate(files):
        whole = file.read_bytes()
        for fault in ("absent", "cut", "a folder"):
            file.unlink()
            if fault == "cut" and file.suffix != ".jsonl":
                file.write_bytes(whole[: len(whole) // 2])
            elif fault == "a folder":
                file.mkdir()
            else:
                assert not file.exists()
            out = tmp_path / f"out{number}{fault}"
            with pytest.raises(UserError) as raised:
                prepare(find(name), source, out, Options(), Form(), engine_of("local", 1))
            # a file that any name fits is missed in its folder
            assert file.name in str(raised.value) or (fault != "cut" and f"{source} has no *" in str(raised.value))
            assert len(str(raised.value).splitlines()) == 1
            if file.is_dir():
                shutil.rmtree(file)
            file.write_bytes(whole)
