"""Predictions joined to the questions that they answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Prediction, ScoringError
from pargo_mllm.evaluation.reading.set_pictures import last_name, same_picture

_MARKERS = re.compile(r"<image(?:[_ ]?\d+)?>", re.IGNORECASE)


@dataclass(frozen=True)
class Joined:
    """Questions with their answers.

    Args:
        by: "id", "picture and question", or "the predictions themselves" where they carry the right answers.
        unanswered: questions without a prediction; unused: predictions without a question. Both are 0 unless only what joins
            was asked for.
    """

    answered: list[Answered]
    by: str
    unanswered: int = 0
    unused: int = 0


def read_joined(benchmark: Benchmark, predictions: Path, answers: Path | None, only_joined: bool = False) -> Joined:
    """The predictions of a file, joined to the right answers: those of ``answers``, or those that they carry.

    Raises:
        ScoringError: if the predictions carry none and no file is given.
    """
    said = benchmark.predictions(predictions)
    if not said:
        raise ScoringError(f"{predictions}, line 1: it holds no prediction.")
    if answers is not None:
        return join(said, benchmark.read(answers), only_joined)
    bare = [one for one in said if one.item is None]
    if bare:
        which = "The predictions" if len(bare) == len(said) else f"{len(bare):,} of {len(said):,} predictions"
        raise ScoringError(
            f"{bare[0].where}: {which} have no right answer beside them: give the benchmark's file as --answers."
        )
    return join(said, None, only_joined)


def join(predictions: Sequence[Prediction], items: Sequence[Item] | None, only_joined: bool = False) -> Joined:
    """Each question with its answer: by id, else by picture and question.

    Ids count only where all of them are known and nothing else that both sides say (picture, question) speaks against it.

    Args:
        items: of the answers' file; None where predictions carry their own.

    Raises:
        ScoringError: for an id, or a picture with the same question, that comes twice; for predictions that join no question
            and questions that have none, unless ``only_joined``; it names the first lines.
    """
    if items is None:
        return _carried(predictions)
    _check_items(items)
    by_id = _by_id(predictions, items)
    if by_id.is_whole(predictions):
        return _joined(by_id, predictions, items, only_joined)
    by_question = _by_question(predictions, items)
    if by_question.is_whole(predictions):
        return _joined(by_question, predictions, items, only_joined)
    # ids that something speaks against are those of another file
    no_ids = all(said.id is None for said in predictions)
    better = by_question if by_id.against or no_ids or len(by_question.pairs) > len(by_id.pairs) else by_id
    if by_id.against and not by_question.pairs:
        raise ScoringError(f"{by_id.against} Predictions join by id, or by picture and question, and neither fits here.")
    return _joined(better, predictions, items, only_joined)


@dataclass
class _Way:
    """What one way to join finds.

    Args:
        pairs: of positions: of a prediction and of its question.
        against: what speaks against it; empty where nothing does.
        why: of predictions by position, why they join no question.
    """

    by: str
    pairs: list[tuple[int, int]] = field(default_factory=list)
    against: str = ""
    why: dict[int, str] = field(default_factory=dict)

    def is_whole(self, predictions: Sequence[Prediction]) -> bool:
        return len(self.pairs) == len(predictions) and not self.against


def _carried(predictions: Sequence[Prediction]) -> Joined:
    bare = next((one for one in predictions if one.item is None), None)
    if bare is not None:
        raise ScoringError(f"{bare.where}: it has no right answer beside it, and no answers' file is given.")
    items = [one.item for one in predictions if one.item is not None]
    _check_once(((item.id, place) for place, item in enumerate(items)), predictions, lambda place: f"id {items[place].id!r}")
    return Joined([_answered(said, item) for said, item in zip(predictions, items, strict=True)], "the predictions themselves")


def _by_id(predictions: Sequence[Prediction], items: Sequence[Item]) -> _Way:
    known = {item.id: place for place, item in enumerate(items)}
    way = _Way("id")
    for number, said in enumerate(predictions):
        place = known.get(said.id) if said.id is not None else None
        if place is None:
            way.why[number] = "it has no id" if said.id is None else f"no question has the id {said.id!r}"
            continue
        way.pairs.append((number, place))
        way.against = way.against or _against(said, items[place])
    return way


def _against(said: Prediction, item: Item) -> str:
    """What a prediction says otherwise of its question than the question itself with its id; empty where that is nothing."""
    if not same_picture(said.picture or "", item.picture):
        return f"{said.where}: the question with the id {said.id!r} is on the picture {item.picture}, not on {said.picture}."
    stated = said.item.choices if said.item is not None else {}
    for letter in stated.keys() & item.choices.keys():
        if _plain(stated[letter]) != _plain(item.choices[letter]):
            return (
                f"{said.where}: choice {letter} of the question with the id {said.id!r} is {item.choices[letter][:80]!r}, not "
                f"{stated[letter][:80]!r}."
            )
    if said.question and item.question and not _tells_of(_plain(said.question), _plain(item.question)):
        return f"{said.where}: the question with the id {said.id!r} is {item.question[:80]!r}, not {said.question[:80]!r}."
    return ""


def _by_question(predictions: Sequence[Prediction], items: Sequence[Item]) -> _Way:
    """By the picture's name and the question where both say them, and by the question alone where no picture is named."""
    on_picture: dict[str, list[int]] = {}
    with_words: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        if item.question:
            on_picture.setdefault(last_name(item.picture), []).append(place)
            with_words.setdefault(_plain(item.question), []).append(place)
    way = _Way("picture and question")
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, said in enumerate(predictions):
        places = _places(said, items, on_picture, with_words)
        if len(places) == 1:
            way.pairs.append((number, places[0]))
        elif places:
            alike.setdefault(tuple(places), []).append(number)
        elif said.question:
            way.why[number] = f"no question has its picture and words: {_shown(said)}"
        else:
            way.why[number] = "it says nothing of its question"
    for same, numbers in alike.items():
        # POPE asks some questions in each of its three parts; which answer is whose does not matter where they are equal
        if len(numbers) == len(same) and len({predictions[number].text for number in numbers}) == 1:
            way.pairs += zip(numbers, same, strict=True)
            continue
        for number in numbers:
            way.why[number] = f"{len(same)} questions have its picture and words: {_shown(predictions[number])}"
    return way


def _places(
    said: Prediction, items: Sequence[Item], on_picture: dict[str, list[int]], with_words: dict[str, list[int]]
) -> list[int]:
    if not said.question:
        return []
    asked = _plain(said.question)
    name = last_name(said.picture or "")
    if name and name in on_picture:
        near = [place for place in on_picture[name] if same_picture(said.picture or "", items[place].picture)]
        exact = [place for place in near if _plain(items[place].question) == asked]
        # a prompt holds more than the question; the longest question that it holds is its own
        held = [place for place in near if _plain(items[place].question) in asked]
        longest = max((len(_plain(items[place].question)) for place in held), default=0)
        return exact or [place for place in held if len(_plain(items[place].question)) == longest]
    first_line = next((line for line in _MARKERS.sub("", said.question).splitlines() if line.strip()), "")
    places = with_words.get(asked) or with_words.get(_plain(first_line)) or []
    return [place for place in places if same_picture(said.picture or "", items[place].picture)]


def _joined(way: _Way, predictions: Sequence[Prediction], items: Sequence[Item], only_joined: bool) -> Joined:
    _check_once(((place, number) for number, place in way.pairs), predictions, lambda number: _names(way, predictions[number]))
    number_of = {place: number for number, place in way.pairs}
    unused = [number for number in range(len(predictions)) if number in way.why]
    unanswered = [place for place in range(len(items)) if place not in number_of]
    if (unused or unanswered) and (not only_joined or not way.pairs):
        raise _refused(way, predictions, items, unused, unanswered)
    answered = [_answered(predictions[number_of[place]], item) for place, item in enumerate(items) if place in number_of]
    return Joined(answered, way.by, len(unanswered), len(unused))


def _refused(
    way: _Way, predictions: Sequence[Prediction], items: Sequence[Item], unused: list[int], unanswered: list[int]
) -> ScoringError:
    parts = []
    if unused:
        first = predictions[unused[0]]
        parts.append(
            f"{first.where}: {way.why[unused[0]]}; {len(unused):,} of {len(predictions):,} predictions join no question "
            f"by {way.by}."
        )
    if unanswered:
        item = items[unanswered[0]]
        words = f" ({item.question[:60]!r})" if item.question else ""
        where = "" if unused else f"{predictions[0].where.rsplit(', ', 1)[0]}: "
        parts.append(
            f"{where}{len(unanswered):,} of {len(items):,} questions have no prediction, the first is that with the id "
            f"{item.id!r}{words}."
        )
    if way.pairs:
        parts.append("--only-joined scores what joins, and says both counts.")
    return ScoringError(" ".join(parts))


def _check_items(items: Sequence[Item]) -> None:
    if not items:
        raise ScoringError("The answers hold no question.")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ScoringError(f"The answers have the id {item.id!r} twice.")
        seen.add(item.id)


def _check_once(keys: Iterable[tuple[object, int]], predictions: Sequence[Prediction], named) -> None:
    first: dict[object, int] = {}
    for key, number in keys:
        if key in first:
            where, before = predictions[number].where, predictions[first[key]].where
            raise ScoringError(f"{where}: {named(number)} comes twice; it is in {before} already. Keep the one that counts.")
        first[key] = number


def _names(way: _Way, said: Prediction) -> str:
    return f"id {said.id!r}" if way.by == "id" else f"the question of {_shown(said)}"


def _shown(said: Prediction) -> str:
    return f"{said.picture or 'no picture'}, {(said.question or '')[:80]!r}"


def _answered(said: Prediction, item: Item) -> Answered:
    return Answered(item, said.text, said.where, said.losses)


def _plain(question: str) -> str:
    """A question without markers of pictures, its white space one blank each."""
    return " ".join(_MARKERS.sub(" ", question).split()).casefold()


def _tells_of(asked: str, question: str) -> bool:
    """Whether a prompt and a question are of one: one of them may hold the other."""
    return question in asked or asked in question
