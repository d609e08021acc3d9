"""Nothing is removed or written over but what ``pargo filter`` laid itself."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from tests.mllm.made.command_line import ended
from tests.mllm.made.photographs import noise_picture
from tests.mllm.made.similarity_models import random_clip
from tests.mllm.made.similarity_pairs import write_list


@pytest.fixture
def data(tmp_path):
    write_list(tmp_path / "data", [(noise_picture(30, 30, n), f"a red dog {n}.") for n in range(10)])
    return tmp_path / "data"


def filter(capsys, data, model, out, *more):
    return ended(capsys, "filter", data, "--model", model, "--out", out, "--even-so", *more)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pictures_of(out):
    return {record["image"] for record in json.loads((out / "data.json").read_text())}


def test_what_a_user_adds_to_a_choice_stays_and_what_was_laid_goes(data, clip, tmp_path, capsys):
    out = tmp_path / "out"
    assert filter(capsys, data, clip, out, "--quantile", "0").status == 0
    mine = {"images/mine.png": b"1", "images/deep/mine.png": b"2", "notes.tar": b"3", "mine.tar.index": b"4"}
    (out / "images" / "deep").mkdir()
    for name, content in mine.items():
        (out / name).write_bytes(content)
    assert filter(capsys, data, clip, out, "--quantile", "0.5").status == 0
    kept = pictures_of(out)
    assert len(kept) == 5
    assert {name for name in files(out) if name.startswith("images/")} == {f"images/{n}" for n in kept} | {*list(mine)[:2]}
    assert {name: files(out)[name] for name in mine} == mine
    # a picture that was laid, and is another one now, is the user's too
    changed = out / "images" / sorted(kept)[0]
    changed.unlink()
    changed.write_bytes(b"mine")
    assert filter(capsys, data, clip, out, "--threshold", "1").status == 0
    assert {name for name in files(out) if name.startswith("images/")} == {f"images/{changed.name}", *list(mine)[:2]}
    # and no picture of a record
    before = files(out)
    refused = filter(capsys, data, clip, out, "--quantile", "0")
    assert (refused.status, f"images/{changed.name} is no file that pargo filter laid" in refused.said) == (2, True)
    after = {name: content for name, content in files(out).items() if not name.startswith(".work/")}
    assert after == before


@pytest.mark.parametrize("begun", [None, "", '{"job": "prepare"}', "scores"])
def test_a_folder_that_looks_like_a_choice_is_not_one(begun, data, clip, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "images").mkdir(parents=True)
    (out / ".work").mkdir()
    for name in ("images/mine.png", "data.json", "dropped.jsonl", "mine.tar", "about.json"):
        (out / name).write_text("mine")
    if begun == "scores":
        (out / "scores-x.parquet").write_text("mine")
    elif begun is not None:
        (out / ".work" / "settings.json").write_text(begun)
    before = files(out)
    assert filter(capsys, data, clip, out, "--quantile", "0.5").status == 2
    assert files(out) == before


def test_pictures_and_data_that_lie_in_out_are_never_its_choice(data, clip, tmp_path, capsys):
    out = tmp_path / "out"
    assert filter(capsys, data, clip, out, "--quantile", "0").status == 0
    shutil.copy(data / "data.json", tmp_path / "list.json")
    before = files(out)
    for root in (out / "images", out):
        refused = filter(capsys, tmp_path / "list.json", clip, out, "--quantile", "0.5", "--image-root", root)
        assert (refused.status, "holds the data themselves" in refused.said) == (2, True), refused.said
    # a link is no way around
    (tmp_path / "link").symlink_to(out / "images")
    assert filter(capsys, tmp_path / "list.json", clip, out, "--quantile", "0.5", "--image-root", tmp_path / "link").status == 2
    assert files(out) == before
    for inside in (data / "kept", data / "images" / "kept"):
        refused = filter(capsys, data, clip, inside, "--quantile", "0.5")
        assert (refused.status, "lies in the data" in refused.said) == (2, True), refused.said
    assert filter(capsys, data / "data.json", clip, data / "images" / "kept", "--quantile", "0.5").status == 2
    # beside a list it is usual
    assert filter(capsys, data / "data.json", clip, data / "kept", "--quantile", "0.5").status == 0


def test_pictures_are_not_laid_through_a_link(data, clip, tmp_path, capsys):
    out = tmp_path / "out"
    assert filter(capsys, data, clip, out, "--scores-only").status == 0
    (tmp_path / "mine").mkdir()
    (out / "images").symlink_to(tmp_path / "mine")
    refused = filter(capsys, data, clip, out, "--quantile", "0.5")
    assert (refused.status, "no folder of its own" in refused.said) == (2, True), refused.said
    assert os.listdir(tmp_path / "mine") == []


def test_a_choice_of_other_data_is_refused_whatever_the_model_is_called(data, clip, tmp_path, capsys):
    out, other = tmp_path / "out", random_clip(tmp_path / "other", seed=5)
    write_list(tmp_path / "more", [(noise_picture(30, 30, n), f"a blue cat {n}.") for n in range(6)])
    assert filter(capsys, data, clip, out, "--quantile", "0.5").status == 0
    before = files(out)
    for more in (("--quantile", "0.5"), ("--scores-only",)):
        refused = filter(capsys, tmp_path / "more", other, out, *more)
        assert (refused.status, "other data" in refused.said) == (2, True), refused.said
    assert files(out) == before
    # a drawing of the user's is not drawn over
    (out / "histogram-other.png").write_bytes(b"mine")
    refused = filter(capsys, data, other, out, "--scores-only")
    assert (refused.status, (out / "histogram-other.png").read_bytes()) == (2, b"mine"), refused.said
    (out / "histogram-other.png").unlink()
    # without the scores too
    (out / "scores-clip.parquet").unlink()
    refused = filter(capsys, tmp_path / "more", other, out, "--quantile", "0.5")
    assert (refused.status, "of other data" in refused.said) == (2, True), refused.said


def test_a_killed_exchange_is_gone_on_with(data, clip, tmp_path, capsys, monkeypatch):
    """After the third file of the new choice."""
    out = tmp_path / "out"
    assert filter(capsys, data, clip, out, "--quantile", "0.5").status == 0
    replace, seen = os.replace, []

    def killed(source, target):
        if "kept" in str(source):
            seen.append(target)
            if len(seen) > 3:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", killed)
    assert filter(capsys, data, clip, out, "--quantile", "0").status != 0
    monkeypatch.undo()
    assert not (out / "about.json").exists()
    assert filter(capsys, data, clip, out, "--quantile", "0.3").status == 0
    assert {path.name for path in (out / "images").iterdir()} == pictures_of(out)
    assert len(pictures_of(out)) == 7


def test_data_may_be_mended_where_nothing_was_scored_yet(data, clip, tmp_path, capsys):
    out, broken = tmp_path / "out", shutil.copytree(clip, tmp_path / "broken" / "clip")
    (broken / "model.safetensors").write_bytes(b"")
    assert filter(capsys, data, broken, out, "--quantile", "0.5").status == 2
    # after weights that could be looked at, and not read
    shutil.copytree(clip, broken, dirs_exist_ok=True)
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (broken / "config.json").write_text(json.dumps(config))
    assert filter(capsys, data, broken, out, "--quantile", "0.5").status == 2
    assert (out / ".work" / "settings.json").is_file()
    records = json.loads((data / "data.json").read_text())
    (data / "data.json").write_text(json.dumps(records[:6]))
    done = filter(capsys, data, clip, out, "--quantile", "0.5")
    assert (done.status, len(pictures_of(out))) == (0, 3), done.said
