"""What a benchmark is: a data set, a prompt, a scorer and an aggregator.

A file of ``benchmarks/`` puts one together from the shared readers and scorers::

    BENCHMARK = Benchmark(
        name="mmstar",
        title="MMStar",
        read=...,          # official files, VLMEvalKit's TSV or the hub's parquet -> items
        prompt="{question}\\n{choices}\\nAnswer with the option's letter from the given choices directly.",
        rules=(Rule("letter", mark=..., figures=...),),
        carried=...,       # of a line of predictions that has the right answer beside it -> item
        submission=...,    # the benchmark's own format of predictions
    )
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from pargo_mllm.data.corpus import Conversation
from pargo_mllm.errors import UserError


class EvaluationError(UserError):
    """An evaluation that cannot be done as it was asked for; the message says what stands in its way and what helps.

    It is one line, whatever the values that it shows: line ends and what cannot be printed are escaped.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(message: str) -> str:
    """A message with its line ends, and what cannot be printed, as escapes."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in message)


class ScoringError(EvaluationError):
    """Predictions, answers or grades that cannot be scored; the message names the file, and the line where there is one."""


@dataclass(frozen=True)
class Item:
    """One question of a benchmark, with what is right.

    Args:
        id: the benchmark's own, unique in it.
        question: as the benchmark states it, without instructions on how to answer.
        answer: in the benchmark's own form: a letter, "Yes", a list of people's answers, a box; None where it is not published.
        picture: what tells pictures apart; items with the same one show the same picture. Empty where there is none.
        part: subtask, category or type, as the benchmark calls it.
        choices: texts by letter, in order; without the blank ones.
        hint: what is told with the question.
        pictures: open the RGB pictures, in order; each is opened only when it is called and raises
            :class:`pargo_mllm.data.pictures.PictureError` for one that cannot be used.
        details: what else its scorer reads.
    """

    id: str
    question: str
    answer: Any = None
    picture: str = ""
    part: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""
    pictures: tuple[Callable[[], Image.Image], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """What a model said to one question, as a file has it.

    Args:
        text: the answer; of a ranking of choices, the letter of the likeliest.
        where: the file and the line, for messages.
        id, picture, question: what the file says of the question; None where it says nothing.
        item: the question itself, where the file has the right answer beside the prediction.
        losses: of a ranking, by letter: the mean loss of the choice's tokens, in nats.
    """

    text: str
    where: str
    id: str | None = None
    picture: str | None = None
    question: str | None = None
    item: Item | None = None
    losses: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Grades:
    """What judges said of answers, as a file has it.

    Args:
        by_id: by the item's id, one a run, each as the benchmark's judge gives it: a number, or a pair; None is missing.
        judges: their names, where the file says them.
    """

    by_id: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    judges: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answered:
    """A question with what was said to it.

    Args:
        grades: of a judge, one a run: a number, a pair of them, or a letter; empty where no judge was asked.
    """

    item: Item
    text: str
    where: str = ""
    losses: Mapping[str, float] | None = None
    grades: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Mark:
    """What an answer is worth.

    Args:
        value: 0...1.
        read: what the rule understood of the text: a letter, "yes", "other", a box; what a person sees in a report.
        extra: what the aggregator needs beside.
        where: the file and the line of the answer; :func:`pargo_mllm.evaluation.scoring.score` puts it in.
    """

    item: Item
    text: str
    value: float
    read: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


Marker = Callable[[Sequence[Answered]], list[Mark]]


@dataclass(frozen=True)
class Rule:
    """One way to score a benchmark, by its name.

    Args:
        name: what the result names.
        mark: answers -> marks, one each and in their order.
        figures: marks -> the figures of the result, as JSON. Shares lie in 0...1, points as the benchmark publishes them.
        ranks: whether the model does not say an answer but the likeliest of the choices counts.
        judge: how a judge is asked, where people's words are graded by one (:mod:`pargo_mllm.evaluation.judging.grading`).
        needs_grades: whether nothing can be said without its grades.
        prompt: what is asked under this rule, where that is not the benchmark's prompt.
    """

    name: str
    mark: Marker
    figures: Callable[[Sequence[Mark]], dict[str, Any]]
    ranks: bool = False
    judge: Any = None
    needs_grades: bool = False
    prompt: str | None = None


def picture_of(item: Item) -> str:
    """What its answer is drawn at random with: the picture, and all that is asked about it."""
    return item.picture


@dataclass(frozen=True)
class Benchmark:
    """A benchmark by its name.

    Args:
        name: on the command line and in results.
        title: as its authors write it.
        prompt: what is asked behind the picture: a template with ``{question}``, and ``{choices}`` (lines ``A. text``) and
            ``{hint}`` (a line, or nothing).
        read: the questions of ``--data``, a folder or a file.
        predictions: the lines of a file of predictions.
        rules: the first is taken where none is named, among those that the predictions fit.
        submission: writes predictions in the benchmark's own format, into a folder; returns the file or folder.
        headline: the figure of the result that stands for all: a report gives its standard error, and compares runs by it.
        also: further figures whose standard errors a report gives.
        max_new_tokens: of an answer.
        grades: reads the judge's grades of a file; none where the file has none.
        needs_data: whether the questions come from files; ``read`` makes them of nothing where not.
        cluster: what a question belongs to when standard errors are clustered: its picture, or what its figure counts together
            beyond that (MMVP's pair of pictures, MMBench's rotations); empty where it stands alone.
    """

    name: str
    title: str
    prompt: str
    read: Callable[[Path], list[Item]]
    predictions: Callable[[Path], list[Prediction]]
    rules: tuple[Rule, ...]
    submission: Callable[[Sequence[Prediction], Path], Path]
    headline: str = "accuracy"
    also: tuple[str, ...] = ()
    max_new_tokens: int = 16
    grades: Callable[[Path], Grades] | None = None
    needs_data: bool = True
    cluster: Callable[[Item], str] = picture_of

    def under(self, rule: Rule) -> Benchmark:
        """The benchmark with the prompt that a rule asks with."""
        return self if rule.prompt is None else replace(self, prompt=rule.prompt)

    def rule(self, name: str) -> Rule:
        """The rule of that name.

        Raises:
            ScoringError: if there is none.
        """
        for rule in self.rules:
            if rule.name == name:
                return rule
        raise ScoringError(f"--rule {name}: {self.name} has {', '.join(rule.name for rule in self.rules)}.")

    def asked(self, item: Item) -> str:
        """What the model is asked, in words."""
        choices = "\n".join(f"{letter}. {text}" for letter, text in item.choices.items())
        hint = f"{item.hint}\n" if item.hint else ""
        return self.prompt.format(question=item.question, choices=choices, hint=hint)

    def conversation(self, item: Item) -> Conversation:
        """What the model is asked, its pictures in front; each is the part ``{"type": "image"}`` still without a picture."""
        pictures = [{"type": "image"} for _ in item.pictures]
        return [{"role": "user", "content": [*pictures, {"type": "text", "text": self.asked(item)}]}]


def each(mark: Callable[[Answered], tuple[float, str]]) -> Marker:
    """A rule that looks at one answer at a time: ``mark`` gives its value, 0...1, and what was understood."""

    def marks(answered: Sequence[Answered]) -> list[Mark]:
        return [Mark(one.item, one.text, *mark(one)) for one in answered]

    return marks


def accuracy(marks: Sequence[Mark]) -> dict[str, Any]:
    """``accuracy``, the mean over all questions, and ``parts``, the same by part, in the order in which they appear."""
    return {"accuracy": mean(mark.value for mark in marks), "parts": by_part(marks)}


def by_part(marks: Sequence[Mark]) -> dict[str, float]:
    """The mean value of each part, in the order in which parts appear; empty where no part has a name."""
    parts: dict[str, list[float]] = {}
    for mark in marks:
        if mark.item.part:
            parts.setdefault(mark.item.part, []).append(mark.value)
    return {part: mean(values) for part, values in parts.items()}


def mean(values: Iterable[float]) -> float:
    """The mean of at least one value."""
    kept = list(values)
    return sum(kept) / len(kept)
