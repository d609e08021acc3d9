"""What templates make of official questions, told without them: grammar, letters, boxes, chance."""

import json
import pickle
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pargo_mllm.data.frames import FRAMES, convert, read_box
from pargo_mllm.data.preparation.data_set import Options
from pargo_mllm.data.preparation.entries import Entry, Picture, Skipped, chance
from pargo_mllm.data.preparation.instructions import among
from pargo_mllm.data.preparation.official_files import OfficialFiles
from pargo_mllm.data.preparation.regions import Region, region_entry
from pargo_mllm.data.preparation.sets import find
from pargo_mllm.data.preparation.sets.vsr import as_question
from tests.mllm.made.official import write


def entries_of(name, folder, **options):
    return list(find(name).entries(OfficialFiles(folder), Options(**options)))


@pytest.mark.parametrize(
    ("caption", "question"),
    [
        ("The cat is inside the refrigerator.", "Is the cat inside the refrigerator?"),
        # "is" in other words is no verb
        ("The dish is at the left side of the iris.", "Is the dish at the left side of the iris?"),
        ("The potted plant is in the middle of the hot dog", "Is the potted plant in the middle of the hot dog?"),
        # the first one is the sentence's
        ("The cup is on the table that is behind the cat.", "Is the cup on the table that is behind the cat?"),
        ("The TV is on the Desk.", "Is the TV on the Desk?"),
        ("The skis are under the person .", "Are the skis under the person?"),
        ("the person is facing away from an umbrella.", "Is the person facing away from an umbrella?"),
        ("The suitcase contains the cat.", "Does the suitcase contain the cat?"),
        ("The cake consists of the banana.", "Does the cake consist of the banana?"),
        ("The train has as a part the bench.", "Does the train have the bench as a part?"),
        ("The cat is on the bed. The dog is not.", None),
        ("The cat and the dog are on the bed.", "Are the cat and the dog on the bed?"),
        ("The bed's cat has the tail.", "Does the bed's cat have the tail?"),
        # whose verb it is
        ("The person who is tall is on the bed.", None),
        ("The bed that has the cat is near the person.", None),
        ("The cat is on the bed and the dog is under it.", None),
        ("The suitcase contains the cat and is open.", None),
        # what yes means
        ("The cat is not on the bed.", None),
        ("The cat has no tail.", None),
        ("The cat that isn't black is on the bed.", None),
        ("There is a cat on the bed.", None),
        ("Is the cat on the bed?", None),
        ("The cat on the bed.", None),
        ("The is on the bed.", None),
        ("", None),
    ],
)
def test_statements_become_questions(caption, question):
    assert as_question(caption) == question


@given(
    st.lists(st.text("abc d.", min_size=1, max_size=6), min_size=2, max_size=26, unique=True),
    st.integers(0, 25),
    st.integers(0, 2**31),
)
def test_the_letter_is_that_of_the_right_choice(choices, right, seed):
    right %= len(choices)
    question, letter = among("which?", choices, right, chance(seed, "x"))
    lines = question.split("\n")[1:]
    assert sorted(lines) == sorted(f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[place]}. {line[3:]}" for place, line in enumerate(lines))
    assert sorted(line[3:] for line in lines) == sorted(choices)
    assert f"{letter}. {choices[right]}" in lines


def test_letters_are_evenly_spread_and_depend_on_seed_and_id_alone():
    def letters(seed, ids):
        return {id: among("which?", ["a", "b", "c", "d"], 0, chance(seed, "aokvqa", id))[1] for id in ids}

    ids = [f"q{number}" for number in range(400)]
    first = letters(0, ids)
    assert first == letters(0, reversed(ids))
    assert first != letters(1, ids)
    counts = [list(first.values()).count(letter) for letter in "ABCD"]
    # a hundred each; sixty would be five standard deviations away
    assert sum(counts) == 400
    assert min(counts) > 60


def test_official_questions_keep_their_right_choice(shared, tmp_path):
    rows = json.loads((shared / "golden" / "scores" / "formats" / "aokvqa_v1p0_val_60.json").read_text())
    (tmp_path / "val2017").mkdir()
    (tmp_path / "aokvqa_v1p0_val.json").write_text(json.dumps(rows))
    found = entries_of("aokvqa", tmp_path, split="val")
    assert [entry.id for entry in found] == [row["question_id"] for row in rows]
    for entry, row in zip(found, rows, strict=True):
        asked, said = (turn["value"] for turn in entry.conversations)
        assert row["question"] in asked
        assert re.search(rf"^{said}\. (.*)$", asked, re.M)[1] == row["choices"][row["correct_choice_idx"]]
        assert entry.picture.place == (f"val2017/{row['image_id']:012d}.jpg",)


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog", "vg"])
def test_phrases_and_boxes_ask_for_each_other_half_of_the_time(name):
    set_of_it = find(name)
    seen = {True: 0, False: 0}
    for number in range(200):
        region = Region(str(number), "a cup", (10, 20, 30, 40), (100, 80), Picture.file("a.jpg"))
        entry = region_entry(region, name, "this one: {box}", Options(seed=3))
        asked, said = (turn["value"] for turn in entry.conversations)
        to_box = said == "[0.100,0.250,0.400,0.750]"
        assert asked.endswith(": a cup" if to_box else "this one: [0.100,0.250,0.400,0.750]")
        assert to_box or said == "a cup"
        seen[to_box] += 1
    # half of 200, give or take five standard deviations
    assert all(65 < count < 135 for count in seen.values()), (seen, set_of_it)


def test_both_directions_come_of_official_files(tmp_path):
    write("vg", tmp_path)
    said = [one.conversations[1]["value"] for one in entries_of("vg", tmp_path) if isinstance(one, Entry)]
    assert {text.startswith("[") for text in said} == {True, False}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["refcoco", "refcocog", "vg"])
def test_written_boxes_lie_in_the_picture_and_go_back_to_official_pixels(name, seed, tmp_path):
    truth = write(name, tmp_path)
    for frame in FRAMES:
        found = {one.id: one for one in entries_of(name, tmp_path, seed=seed, frame=frame) if isinstance(one, Entry)}
        assert found.keys() == truth.boxes.keys()
        for id, (box, size) in truth.boxes.items():
            text = "\n".join(turn["value"] for turn in found[id].conversations)
            back = convert(read_box(text), frame, "pixels", size)
            assert back == pytest.approx(box, abs=0.001 * max(size))
            assert found[id].size == size
            assert found[id].frame == frame


sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
coordinates = st.floats(-50, 3100, allow_nan=False) | st.integers(-50, 3100)


@settings(max_examples=300)
@given(st.tuples(coordinates, coordinates, coordinates, coordinates), sizes, st.sampled_from(sorted(FRAMES)))
def test_a_box_is_told_within_a_pixel_or_counted(xywh, size, frame):
    region = Region("1", "a cup", xywh, size, Picture.file("a.jpg"))
    entry = region_entry(region, "vg", "what is in {box}", Options(frame=frame))
    x, y, width, height = xywh
    inside = x >= 0 and y >= 0 and x + width <= size[0] and y + height <= size[1]
    # written numbers must be able to tell its corners apart
    wide = width > 0.003 * max(*size, 100) and height > 0.003 * max(*size, 100)
    if inside and wide:
        assert isinstance(entry, Entry)
    if isinstance(entry, Skipped):
        return
    told = convert(read_box("\n".join(turn["value"] for turn in entry.conversations)), frame, "pixels", size)
    assert told[0] < told[2]
    assert told[1] < told[3]
    assert told == pytest.approx((x, y, x + width, y + height), abs=1.0 + 0.001 * max(size))


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((10, 10, -5, 5), "reversed"),
        ((10, 10, 0, 5), "covers nothing"),
        ((95, 10, 6.5, 5), "leaves the picture"),
        ((-1.5, 10, 20, 5), "leaves the picture"),
        # it begins where the picture ends
        ((100, 10, 1, 5), "covers nothing"),
        ((10, 10, 0.01, 5), "once its numbers are written"),
        ((), "no four numbers"),
    ],
)
def test_boxes_that_cannot_be_are_counted_by_what_is_wrong(box, reason):
    region = Region("1", "a cup", box, (100, 80), Picture.file("a.jpg"))
    skipped = region_entry(region, "vg", "{box}", Options())
    assert isinstance(skipped, Skipped)
    assert reason in skipped.reason


@pytest.mark.parametrize("name", ["vqav2", "gqa", "ocrvqa"])
@pytest.mark.parametrize("fault", ["What does <image> mean?", "half \ud83d", "What is in the <video>?"])
@pytest.mark.parametrize("in_answer", [False, True], ids=["question", "answer"])
def test_a_question_that_cannot_be_used_takes_no_others_with_it(name, fault, in_answer, tmp_path):
    pairs = [(f"question {number}?", f"answer {number}") for number in range(12)]
    pairs[3] = ("question 3?", fault) if in_answer else (fault, "answer 3")
    for folder in ("train2014", "images"):
        (tmp_path / folder).mkdir()
    if name == "vqav2":
        asked = [{"question_id": number, "image_id": 7, "question": pair[0]} for number, pair in enumerate(pairs)]
        said = [{"question_id": number, "multiple_choice_answer": pair[1]} for number, pair in enumerate(pairs)]
        (tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json").write_text(json.dumps({"questions": asked}))
        (tmp_path / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": said}))
    elif name == "gqa":
        rows = {number: {"imageId": "7", "question": pair[0], "answer": pair[1]} for number, pair in enumerate(pairs)}
        (tmp_path / "train_balanced_questions.json").write_text(json.dumps(rows))
    else:
        row = {"split": 1, "questions": [pair[0] for pair in pairs], "answers": [pair[1] for pair in pairs]}
        (tmp_path / "dataset.json").write_text(json.dumps({"7": row}))
    found = entries_of(name, tmp_path)
    said = [turn["value"] for entry in found if isinstance(entry, Entry) for turn in entry.conversations[1::2]]
    # an answer is no place for a video
    is_said = in_answer and "video" in fault
    assert [text for text in said if text != fault] == [f"answer {number}" for number in range(12) if number != 3]
    assert len([entry for entry in found if isinstance(entry, Skipped)]) == (0 if is_said else 1)


def skipped_of(name, folder):
    return [(entry.id, entry.reason) for entry in entries_of(name, folder) if isinstance(entry, Skipped)]


def test_a_label_is_zero_or_one_however_it_is_spelled(tmp_path):
    labels = [1, 0, "1", "0", True, False, 1.0, 0.0, 2, None, -1, "yes", "1.0", [1], 0.5, float("nan")]
    (tmp_path / "random").mkdir()
    rows = [{"image": "a.jpg", "caption": "The cat is on the bed.", "label": label} for label in labels]
    (tmp_path / "random" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = entries_of("vsr", tmp_path)
    assert [one.conversations[1]["value"] for one in found[:8]] == ["yes", "no"] * 4
    assert {one.reason for one in found[8:]} == {"captions whose label is neither 0 nor 1"}


@pytest.mark.parametrize("image", ["123", 123.0, None, [1], 0])
@pytest.mark.parametrize("name", ["aokvqa", "vqav2"])
def test_a_question_that_names_no_photograph_is_said_to(name, image, tmp_path):
    for folder in ("train2017", "train2014"):
        (tmp_path / folder).mkdir()
    row = {"question_id": "1", "image_id": image, "question": "what?", "choices": ["a", "b"], "correct_choice_idx": 0}
    (tmp_path / "aokvqa_v1p0_train.json").write_text(json.dumps([row]))
    (tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json").write_text(json.dumps({"questions": [row]}))
    said = {"question_id": "1", "multiple_choice_answer": "a"}
    (tmp_path / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": [said]}))
    assert skipped_of(name, tmp_path) == [("1", "questions that name no photograph, or not as the set does")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"caption": ["a", "b"]}, "captions that say nothing, or are no text"),
        ({"caption": None}, "captions that say nothing, or are no text"),
        ({"caption": " "}, "captions that say nothing, or are no text"),
        ({"image": None}, "captions that name no picture"),
        ({"image": ["a.jpg"]}, "captions that name no picture"),
    ],
)
def test_a_caption_that_is_none_is_said_to(row, reason, tmp_path):
    (tmp_path / "list.json").write_text(json.dumps([{"id": "1", "image": "a.jpg", "caption": "a cat", **row}]))
    assert skipped_of("pargocap", tmp_path) == [("1", reason)]


@pytest.mark.parametrize("form", ["mdetr", "refs"])
def test_a_phrase_on_an_object_that_is_not_there_is_no_fault_of_a_box(form, tmp_path):
    (tmp_path / "train2014").mkdir()
    image = {"id": 1, "file_name": "a.jpg", "width": 20, "height": 20, "caption": "a cat"}
    told = {"images": [image], "annotations": [{"id": 5, "image_id": 2, "bbox": [1, 1, 5, 5]}]}
    reason = "phrases on an object that the file does not have"
    if form == "mdetr":
        (tmp_path / "finetune_refcoco_train.json").write_text(json.dumps(told))
        # a box on a photograph that is not there is one more
        assert skipped_of("refcoco", tmp_path) == [("1", reason), ("2", "boxes on a photograph that the file does not name")]
    else:
        ref = {"split": "train", "image_id": 1, "ann_id": 7, "ref_id": 3, "sentences": [{"sent_id": 1, "sent": "a cat"}]}
        (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([ref], protocol=2))
        (tmp_path / "instances.json").write_text(json.dumps(told))
        assert skipped_of("refcoco", tmp_path) == [("1", reason)]
