"""Predictions meet their own question or none: ids that belong to another numbering count for nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargo_mllm.evaluation.benchmark import Benchmark, Item, Prediction, ScoringError
from pargo_mllm.evaluation.joining import join, read_joined
from pargo_mllm.evaluation.reading.rows import read_rows

PICTURES = ("COCO_val2014_000000000001.jpg", "COCO_val2014_000000000002.jpg")
THINGS = ("car", "dog")
ITEMS = [
    Item(id=str(number), question=f"Is there a {thing} in the image?", answer="yes", picture=picture)
    for number, (picture, thing) in enumerate(((p, t) for p in PICTURES for t in THINGS), start=1)
]


def predictions(items=ITEMS, **changes):
    """One an item, which says what that item is; ``changes`` are functions of the item."""
    said = [
        Prediction(
            text=f"to {item.id}", where=f"p.jsonl, line {line}", id=item.id, picture=item.picture, question=item.question
        )
        for line, item in enumerate(items, start=1)
    ]
    return [
        replace(one, **{name: change(item) for name, change in changes.items()}) for one, item in zip(said, items, strict=True)
    ]


def pairs(joined):
    return {one.item.id: one.text for one in joined.answered}


RIGHT = {item.id: f"to {item.id}" for item in ITEMS}


@pytest.mark.parametrize(
    ("changes", "by"),
    [
        ({}, "id"),
        ({"picture": lambda item: None, "question": lambda item: None}, "id"),
        ({"question": lambda item: f"<image>\n{item.question}\nAnswer yes or no."}, "id"),
        ({"picture": lambda item: "val2014/" + item.picture}, "id"),
        ({"id": lambda item: None}, "picture and question"),
        ({"id": lambda item: "2000" + item.id}, "picture and question"),
        # another numbering with numbers that are known here: pictures or words speak against it
        ({"id": lambda item: str(5 - int(item.id))}, "picture and question"),
        ({"id": lambda item: str((int(item.id) + 1) % 4 + 1)}, "picture and question"),
        (
            {"id": lambda item: None, "question": lambda item: f" Is there  a\n{item.question[11:]}  <image>"},
            "picture and question",
        ),
        (
            {"id": lambda item: None, "question": lambda item: f"{item.question} Answer with one word."},
            "picture and question",
        ),
        ({"id": lambda item: None, "picture": lambda item: item.picture[-6:]}, "picture and question"),
    ],
)
def test_predictions_meet_their_own_question(changes, by):
    joined = join(predictions(**changes), ITEMS)
    assert (pairs(joined), joined.by, joined.unanswered, joined.unused) == (RIGHT, by, 0, 0)


@given(st.permutations(range(4)), st.permutations(range(4)), st.booleans())
def test_neither_order_nor_foreign_ids_change_a_pair(order, numbering, told):
    """Whatever the predictions' own numbers, they go by the words; answers come in the order of the questions."""
    said = predictions(id=lambda item: str(numbering[int(item.id) - 1] + 1) if told else None)
    joined = join([said[place] for place in order], ITEMS)
    assert pairs(joined) == RIGHT
    assert [one.item.id for one in joined.answered] == ["1", "2", "3", "4"]


def test_the_longest_question_that_a_prompt_holds_is_its_own():
    items = [
        Item(id="a", question="Is there a car", picture="x.jpg"),
        Item(id="b", question="Is there a car in the image?", picture="x.jpg"),
    ]
    said = [
        Prediction("to b", "p, line 1", picture="x.jpg", question="Is there a car in the image? Say yes or no."),
        Prediction("to a", "p, line 2", picture="x.jpg", question="Is there a car. Say yes or no."),
    ]
    assert pairs(join(said, items)) == {"a": "to a", "b": "to b"}


def test_a_picture_without_a_name_is_left_to_the_words():
    items = [replace(item, picture="sha256:0") for item in ITEMS[:2]]
    said = predictions(items, id=lambda item: None, picture=lambda item: "x.jpg")
    assert pairs(join(said, items)) == {"1": "to 1", "2": "to 2"}
    # the same words on two pictures that nothing tells apart
    bare = predictions(id=lambda item: None, picture=lambda item: None)
    with pytest.raises(ScoringError, match=r"p\.jsonl, line 1: 2 questions have its picture and words"):
        join(bare, ITEMS)
    # nor need anything, where as many equal answers as questions are given
    joined = join([replace(one, text="yes") for one in bare], ITEMS)
    assert pairs(joined) == dict.fromkeys(RIGHT, "yes")


@pytest.mark.parametrize(
    ("said", "items", "refused"),
    [
        (predictions()[:3], ITEMS, r"^p\.jsonl: 1 of 4 questions have no prediction, the first is that with the id '4'"),
        (
            predictions(),
            ITEMS[:3],
            r"^p\.jsonl, line 4: no question has the id '4'; 1 of 4 predictions join no question by id\. --only-joined scores",
        ),
        (
            [*predictions(), predictions()[1]],
            ITEMS,
            r"^p\.jsonl, line 2: id '2' comes twice; it is in p\.jsonl, line 2 already",
        ),
        (
            [replace(one, id=None) for one in (*predictions(), predictions()[1])],
            ITEMS,
            r"^p\.jsonl, line 2: the question of COCO_.*, 'Is there a dog.*' comes twice; it is in p\.jsonl, line 2 already",
        ),
        (
            predictions(id=lambda item: None, question=lambda item: None),
            ITEMS,
            r"line 1: it says nothing of its question; 4 of 4",
        ),
        (
            predictions(id=lambda item: str(5 - int(item.id)), question=lambda item: None),
            ITEMS,
            r"^p\.jsonl, line 1: the question with the id '4' is on the picture COCO_val2014_000000000002\.jpg, not on COCO",
        ),
        (
            predictions(question=lambda item: "What is it?", id=lambda item: item.id),
            ITEMS,
            r"^p\.jsonl, line 1: the question with the id '1' is 'Is there a car in the image\?', not 'What is it\?'",
        ),
        (
            [Prediction("A", "p, line 1", "7", item=Item("7", "", "A", choices={"A": "x", "B": "y"}))],
            [Item("7", "Which?", "A", choices={"A": "Y", "B": "X"})],
            r"^p, line 1: choice [AB] of the question with the id '7' is '[YX]', not '[xy]'",
        ),
        (predictions(), [*ITEMS, ITEMS[0]], "The answers have the id '1' twice"),
        (predictions(), [], "The answers hold no question"),
        (predictions(), None, r"line 1: it has no right answer beside it"),
        (
            [Prediction("x", f"p, line {line}", item=ITEMS[0]) for line in (3, 7)],
            None,
            r"^p, line 7: id '1' comes twice; it is in p, line 3 already",
        ),
    ],
)
def test_what_does_not_join_is_refused_with_its_line(said, items, refused):
    with pytest.raises(ScoringError, match=refused):
        join(said, items)


def test_only_what_joins_is_scored_on_request_and_counted():
    joined = join(predictions()[1:], ITEMS[:3], only_joined=True)
    assert (pairs(joined), joined.by, joined.unanswered, joined.unused) == ({"2": "to 2", "3": "to 3"}, "id", 1, 1)
    said = [replace(one, id=f"2000{one.id}") for one in predictions()[1:]]
    joined = join(said, ITEMS[:3], only_joined=True)
    assert (pairs(joined), joined.by, joined.unanswered, joined.unused) == (
        {"2": "to 2", "3": "to 3"},
        "picture and question",
        1,
        1,
    )
    with pytest.raises(ScoringError, match=r"line 1: no question has the id 'x'; 4 of 4 predictions join no question"):
        join(predictions(id=lambda item: "x", question=lambda item: None), ITEMS, only_joined=True)
    # twice is twice, whatever else is left out
    with pytest.raises(ScoringError, match="comes twice"):
        join([*predictions(), predictions()[0]], ITEMS[:3], only_joined=True)


def test_answers_come_from_a_file_or_from_the_predictions_themselves(tmp_path):
    def benchmark(said):
        return Benchmark("b", "B", "{question}", lambda file: ITEMS, lambda file: said, (), lambda said, file: file)

    carried = [Prediction(one.text, one.where, item=item) for one, item in zip(predictions(), ITEMS, strict=True)]
    assert read_joined(benchmark(carried), Path("p"), None).by == "the predictions themselves"
    assert read_joined(benchmark(predictions()), Path("p"), Path("a")).by == "id"
    with pytest.raises(ScoringError, match=r"line 1: The predictions have no right answer beside them: give .* --answers"):
        read_joined(benchmark(predictions()), Path("p"), None)
    with pytest.raises(ScoringError, match="line 2: 1 of 2 predictions have no right answer"):
        read_joined(benchmark([carried[0], predictions()[1]]), Path("p"), None)
    with pytest.raises(ScoringError, match="p, line 1: it holds no prediction"):
        read_joined(benchmark([]), Path("p"), None)


def test_pope_of_2023_numbers_its_answers_otherwise(shared):
    """LLaVA's published answers and POPE's labels share no id; ids moved into the labels' range are foreign still."""
    folder = shared / "golden" / "scores" / "pope"
    items = [
        Item(row.text("question_id"), row.text("text"), row.text("label"), row.text("image"))
        for row in read_rows(folder / "coco_pope_popular.json")
    ]
    said = [
        Prediction(row.text("text"), row.where, row.text("question_id"), row.text("image"), row.text("question"))
        for row in read_rows(folder / "llava-v1.5-13b_popular.jsonl")
    ]
    for number in (str, lambda id: str(int(id) - 20_000_000), lambda id: str(20_003_001 - int(id))):
        joined = join([replace(one, id=number(one.id)) for one in said], items)
        says_yes = [(one.item.answer, one.text.strip().lower().startswith("yes")) for one in joined.answered]
        # the published counts
        assert (says_yes.count(("yes", True)), says_yes.count(("no", True))) == (1182, 59)
