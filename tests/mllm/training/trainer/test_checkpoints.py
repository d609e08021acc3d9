"""Checkpoints are complete or absent, whatever was killed and whatever the disk did to them."""

import json

import pytest

from pargo_mllm.files import MANIFEST, what_is_wrong, write_manifest
from pargo_mllm.training.trainer.checkpoints import ASIDE, last_checkpoint, newest_step, publish


def save(folder, step):
    """What a trainer leaves aside."""
    written = folder / ASIDE / f"checkpoint-{step}"
    (written / "engine").mkdir(parents=True)
    (written / "trainer_state.json").write_text(str(step))
    (written / "engine" / "rank_0.pt").write_bytes(b"weights")
    return written


def steps(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def test_newest_two_stay(tmp_path):
    for step in (4, 8, 12, 100):
        publish(save(tmp_path, step), tmp_path, {"step": step})
    assert steps(tmp_path) == [12, 100]
    assert newest_step(tmp_path) == 100
    assert last_checkpoint(tmp_path, pytest.fail) == tmp_path / "checkpoint-100"
    manifest = json.loads((tmp_path / "checkpoint-100" / MANIFEST).read_text())
    assert manifest["settings"] == {"step": 100}
    assert set(manifest["files"]) == {"trainer_state.json", "engine/rank_0.pt"}
    assert not (tmp_path / ASIDE).exists()


def test_half_written_is_never_picked(tmp_path):
    publish(save(tmp_path, 4), tmp_path, {})
    # killed in front of its manifest, and between manifest and rename
    save(tmp_path, 8)
    assert last_checkpoint(tmp_path, pytest.fail) == tmp_path / "checkpoint-4"
    assert not (tmp_path / ASIDE).exists()
    write_manifest(save(tmp_path, 8), {})
    assert last_checkpoint(tmp_path, pytest.fail) == tmp_path / "checkpoint-4"
    # what was aside is gone: the same step can be saved again
    publish(save(tmp_path, 8), tmp_path, {})
    assert last_checkpoint(tmp_path, pytest.fail) == tmp_path / "checkpoint-8"


def test_damaged_one_is_removed_and_said(tmp_path):
    said = []
    for step in (4, 8):
        publish(save(tmp_path, step), tmp_path, {})
    (tmp_path / "checkpoint-8" / "engine" / "rank_0.pt").write_bytes(b"Weights")
    assert last_checkpoint(tmp_path, said.append) == tmp_path / "checkpoint-4"
    assert said == [f"{tmp_path / 'checkpoint-8'} is not used: engine/rank_0.pt is not what was written"]
    assert steps(tmp_path) == [4]


def test_nothing_to_go_on_from(tmp_path):
    assert last_checkpoint(tmp_path / "absent", pytest.fail) is None
    assert newest_step(tmp_path / "absent") is None
    (tmp_path / "checkpoint-x").mkdir()
    assert last_checkpoint(tmp_path, pytest.fail) is None
    assert (tmp_path / "checkpoint-x").is_dir(), "no checkpoint of ours"


def test_manifest_of_a_killed_attempt_is_not_among_the_files(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    write_manifest(tmp_path, {"attempt": 1})
    # killed while the next attempt wrote its manifest
    (tmp_path / f".{MANIFEST}.partial").write_text('{"settings"')
    write_manifest(tmp_path, {"attempt": 2})
    assert what_is_wrong(tmp_path) is None
    assert json.loads((tmp_path / MANIFEST).read_text())["settings"] == {"attempt": 2}
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []
