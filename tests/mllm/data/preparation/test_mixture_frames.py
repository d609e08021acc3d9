"""Prepared folders in a mixture: boxes are in one frame."""

import json

import pytest

from pargo_mllm.data.preparation.data_set import PreparationError
from pargo_mllm.data.preparation.mixture import parts


def prepared(folder, frame):
    folder.mkdir()
    (folder / "about.json").write_text(json.dumps({"set": folder.name, "records": 3, "weight": 0.1, "frame": frame}))
    return folder


def test_boxes_in_several_frames_are_refused_with_their_folders_and_the_way_out(tmp_path):
    a, b, c, d = (
        prepared(tmp_path / name, frame) for name, frame in (("a", "picture"), ("b", "pixels"), ("c", None), ("d", "picture"))
    )
    with pytest.raises(PreparationError) as raised:
        parts([a, b, c, d])
    said = str(raised.value)
    assert f"picture: {a}, {d}; pixels: {b}" in said
    assert str(c) not in said
    assert "--frame" in said
    assert len(said.splitlines()) == 1
    # without boxes there is no frame to differ in
    assert [part.name for part in parts([a, c, d])] == ["a", "c", "d"]
    assert [part.name for part in parts([b, c])] == ["b", "c"]
