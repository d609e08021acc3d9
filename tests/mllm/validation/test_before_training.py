"""What training says it will skip for its pictures, before it begins."""

from __future__ import annotations

import pytest

from pargo_mllm.data.sources.llava import LlavaCorpus
from pargo_mllm.jobs import engine_of
from pargo_mllm.validation import before_training, json_structure
from pargo_mllm.validation.before_training import told_of, unreadable_pictures
from tests.mllm.made.faulty_set import clean_set
from tests.mllm.made.photographs import write_photographs
from tests.mllm.made.training_runs import train


@pytest.fixture
def made(tmp_path):
    made = clean_set(tmp_path / "set", 30)
    made.picture(1).unlink()
    made.picture(2).write_bytes(b"")
    made.picture(3).write_bytes(b"no picture")
    made.picture(4).write_bytes(made.picture(4).read_bytes()[:300])
    # left out when the list is opened: told there
    made.records[6]["conversations"].pop()
    made.picture(6).unlink()
    made.write()
    return made


def test_counts_are_those_that_training_skips(made, tmp_path):
    corpus = LlavaCorpus(made.file, made.folder / "images")
    skipped = 0
    for index in range(len(corpus)):
        try:
            for opens in corpus[index].pictures:
                opens()
        except ValueError:
            skipped += 1
    seen = unreadable_pictures(made.file, None, corpus.settings(), tmp_path / "cache")
    assert (seen.samples, sum(seen.skipped.values())) == (len(corpus), skipped) == (29, 4)
    assert seen.skipped == {"picture_missing": 1, "picture_empty": 1, "picture_broken": 1, "picture_truncated": 1}
    # what is small is looked at anew
    assert not (tmp_path / "cache").exists()


def test_a_large_set_is_looked_at_once_until_it_changes(made, tmp_path, monkeypatch):
    monkeypatch.setattr(json_structure, "PIECE_BYTES", 500)
    monkeypatch.setattr(before_training, "engine_of", lambda name, processes: engine_of(name, 1))
    content = LlavaCorpus(made.file, made.folder / "images").settings()

    def look():
        return unreadable_pictures(made.file, None, content, tmp_path / "cache")

    # what is wrong is looked at again: it may be mended
    assert [look().kept for _ in range(2)] == [False, False]
    for number in (1, 2, 3, 4, 6):
        made.picture(number).write_bytes(made.picture(5).read_bytes())
    first, second = look(), look()
    assert (first.kept, second.kept) == (False, True)
    assert first.skipped == second.skipped == {}
    # half a file, or a stranger's, is no answer
    (file,) = (tmp_path / "cache" / "looked").iterdir()
    for broken in ('{"samples": 1, "sk', '{"samples": 1, "skipped": []}', '{"samples": [], "skipped": {}}'):
        file.write_text(broken)
        assert not look().kept
    # a picture that goes from the folder
    made.picture(1).unlink()
    again = look()
    assert (again.kept, again.skipped) == (False, {"picture_missing": 1})


def test_what_cannot_be_looked_at_ends_no_training(tmp_path):
    assert "pictures were not looked at" in told_of(tmp_path / "none.json", None, {}, tmp_path).line


@pytest.mark.parametrize("asked", [True, False])
def test_training_says_it_first_where_it_is_asked_to(asked, capsys, tmp_path):
    write_photographs(tmp_path / "coco")
    words = ["mini-stage1", "--miniature", "tiny", "--data", tmp_path / "coco", "--dry-run"]
    assert train(*words, "--check-data", str(asked).lower()) == 0
    said = "the pictures of 7 samples were looked at; 1 will be skipped: 1 for pictures that cannot be read"
    assert (said in capsys.readouterr().out) == asked
