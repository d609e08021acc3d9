"""What is a box and what only looks like one; frames that are declared and are not those of the numbers, or are several."""

from __future__ import annotations

import json

import pytest

from pargo_mllm.jobs import engine_of
from pargo_mllm.loading import save_model
from pargo_mllm.validation.division import part_of
from pargo_mllm.validation.run import validate
from pargo_mllm.validation.settings import Settings
from tests.mllm.made.command_line import ended
from tests.mllm.made.faulty_set import clean_set, written
from tests.mllm.made.photographs import noise_picture
from tests.mllm.made.training_runs import train


def found_in(file, **settings):
    found = []
    validate(part_of(file), Settings(**settings), engine_of("local", 1), found.append, None)
    return found


def one_answer(folder, answer, picture=True, **more):
    folder.mkdir(exist_ok=True)
    noise_picture(480, 640, 1).save(folder / "a.png")
    turns = [{"from": "human", "value": f"{'<image>' * picture} what?"}, {"from": "gpt", "value": answer}]
    record = {"id": "1", **({"image": "a.png"} if picture else {}), "conversations": turns, **more}
    (folder / "list.json").write_text(json.dumps([record]))
    return folder / "list.json"


@pytest.mark.parametrize(
    "answer",
    [
        "a[0,1,2,3] = [3,2,1,0]",
        "Call f(3,2),(1,0) then.",
        "`x = [9,8,7,6]` and ```\n[9.5,8,7,6]\n```",
        "the matrix [[1,2,3,4],[5,6,7,8]]",
    ],
)
def test_code_and_matrices_hold_no_boxes(answer, tmp_path):
    assert found_in(one_answer(tmp_path, answer), frame="picture") == []


def test_a_record_without_a_picture_has_no_boxes(tmp_path):
    assert found_in(one_answer(tmp_path, "It is [4,3,2,1], or [0.9,0.5,0.1,0.2].", picture=False), frame="picture") == []


def test_a_list_that_no_frame_holds_is_a_note_and_a_box_of_another_frame_an_error(tmp_path):
    kinds = {
        answer: {one.kind for one in found_in(one_answer(tmp_path, answer), frame="picture")}
        for answer in ("[5,4,3,2]", "[10,20,100,200]", "[0.9,0.5,0.1,0.6]", "[[10,20,100,300],[1,2,3.5,4]]")
    }
    assert list(kinds.values()) == [{"box_unlikely"}, {"box_frame"}, {"box_reversed"}, {"box_frame"}]


@pytest.mark.parametrize("frame", ["picture", "pixels", "thousand", "padded"])
def test_boxes_in_the_frame_that_they_declare_are_clean(frame, tmp_path):
    made = clean_set(tmp_path / "set", 200, frame)
    made.write()
    assert found_in(made.file) == []


def framed(folder, real, declared, count=40):
    """Boxes anywhere on pictures of 640 x 480."""
    (folder / "images").mkdir(parents=True)
    noise_picture(480, 640, 1).save(folder / "images" / "a.png")
    records = []
    for number in range(count):
        x1, y1 = 0.02 * (number % 20), 0.3 + 0.01 * (number % 10)
        box = (x1, y1, x1 + 0.55, y1 + 0.5)
        scale = {"thousand": (1000, 1000), "pixels": (640, 480), "picture": (1, 1)}[real]
        numbers = [one * scale[at % 2] for at, one in enumerate(box)]
        turns = [
            {"from": "human", "value": f"<image> where is {number}"},
            {"from": "gpt", "value": f"{number} {written(numbers)}"},
        ]
        records.append({"id": str(number), "image": "a.png", "frame": declared, "conversations": turns})
    (folder / "list.json").write_text(json.dumps(records))
    return folder / "list.json"


def test_pixels_declared_as_thousandths_are_told_by_all_boxes_together(tmp_path):
    (one,) = found_in(framed(tmp_path / "a", "pixels", "thousand"))
    assert (one.kind, "of 40 boxes" in one.detail) == ("set_frame", True)
    # 0.48 of the thousand, forty times over
    assert "once in 10^12:" in one.detail
    assert found_in(framed(tmp_path / "b", "thousand", "thousand")) == []


def test_several_frames_are_told_of_a_list_of_a_mixture_and_before_training(tmp_path, capsys):
    lists = [framed(tmp_path / frame, frame, frame, 3) for frame in ("pixels", "picture")]
    assert [ended(capsys, "validate", one, "--processes", 1).status for one in lists] == [0, 0]
    done = ended(capsys, "validate", f"[{lists[0]}, {lists[1]}]", "--json", "--processes", 1, "--findings", tmp_path / "found")
    (of_first, of_second) = json.loads(done.printed)["parts"]
    assert (done.status, of_first["findings"], of_second["findings"][0]["kind"]) == (3, [], "frames_mixed")
    assert json.loads((tmp_path / "found").read_text())["kind"] == "frames_mixed"
    both = [json.loads(one.read_text())[0] | {"id": name} for one, name in zip(lists, "ab", strict=True)]
    (tmp_path / "images").symlink_to(tmp_path / "pixels" / "images")
    (tmp_path / "both.json").write_text(json.dumps(both))
    assert [(one.kind, one.detail) for one in found_in(tmp_path / "both.json") if one.kind == "frames_mixed"] == [
        ("frames_mixed", "1 in picture; 1 in pixels")
    ]


def test_training_says_that_its_parts_have_several_frames(tmp_path, make_model, processor, capsys):
    lists = [framed(tmp_path / frame, frame, frame, 3) for frame in ("pixels", "picture")]
    save_model(make_model(), processor, tmp_path / "model")
    words = ["mini-stage2", "--model", tmp_path / "model", "--dry-run", "--data"]
    assert train(*words, f"[{lists[0]}, {lists[1]}]") == 0
    assert "3 in picture; 3 in pixels" in capsys.readouterr().out
    assert train(*words, f"[{lists[0]}, {lists[0]}]") == 0
    assert "several frames" not in capsys.readouterr().out
