"""Held-out pictures whose questions have one exact answer: generated scenes, or a folder's photographs with their objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pargo_mllm.data.corpus import Corpus
from pargo_mllm.data.feeding.encoding import ExampleEncoder
from pargo_mllm.data.questions import QuestionCorpus
from pargo_mllm.data.scenes.corpus import SceneCorpus, Scenes
from pargo_mllm.evaluation.benchmark import (
    Answered,
    Benchmark,
    Item,
    Mark,
    Prediction,
    Rule,
    ScoringError,
    accuracy,
    each,
    mean,
)
from pargo_mllm.evaluation.reading.rows import read_rows
from pargo_mllm.evaluation.scorers.constant import best_constant_score
from pargo_mllm.evaluation.scorers.exact_match import Score, exact_match, shuffled
from pargo_mllm.evaluation.writing.submissions import json_lines
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor


@dataclass(frozen=True)
class ScenesBenchmark:
    """Exact match by kind of question, greedily decoded.

    Args:
        train: what the best constant answers are taken from.
        held_out: what is asked.
        encode: gives a corpus the features of its pictures, where they are kept.
        position: of the progress bars.
    """

    train: QuestionCorpus
    held_out: QuestionCorpus
    encode: Callable[[Corpus], Corpus] = lambda corpus: corpus
    position: int = 0

    def score(
        self, model: ParGoForConditionalGeneration, processor: ParGoProcessor, title: str | None = None
    ) -> dict[str, Any]:
        """``mean`` over the kinds of questions, ``kinds`` with a share each, and how many ``questions`` were asked."""
        return self._shares(self._match(model, processor, self.items(processor), title))

    def baselines(self, model: ParGoForConditionalGeneration, processor: ParGoProcessor) -> dict[str, Any]:
        """What a trained model gets with the picture hidden and with another one, and what the best constant answers get."""
        items = self.items(processor)
        readable = [index for index, item in enumerate(items) if usable(item)]
        asked = [question for index in readable for question in self.held_out.said(index)]
        learned = (question for index in range(len(self.train)) for question in self.train.said(index))
        constant = best_constant_score(learned, asked)
        items = [items[index] for index in readable]
        return {
            "constant": self._shares(constant),
            "text_only": self._shares(self._match(model, processor, items, "text only", hide_pictures=True)),
            "shuffled": self._shares(self._match(model, processor, shuffled(items), "another picture")),
        }

    def items(self, processor: ParGoProcessor) -> list[dict[str, Any]]:
        """The held-out pictures with all that is asked about them, as the model reads it."""
        corpus, encoder = self.encode(self.held_out), ExampleEncoder(processor)
        return [encoder(corpus[index]) for index in range(len(corpus))]

    def _match(self, model, processor, items, title: str | None, hide_pictures: bool = False) -> Score:
        pad, shown = processor.tokenizer.pad_token_id, title and f"held-out questions, {title}"
        return exact_match(model, items, pad, hide_pictures=hide_pictures, title=shown, position=self.position)

    @staticmethod
    def _shares(score: Score) -> dict[str, Any]:
        kinds = {kind: score.accuracy(kind) for kind in score.asked}
        return {"mean": score.mean, "kinds": kinds, "questions": sum(score.asked.values())}


def usable(item: dict[str, Any]) -> bool:
    """Whether the picture could be read."""
    return "skipped" not in item


def scenes_of(data: Path) -> Scenes:
    """The scenes that ``--data`` names; the usual ones where it is not given.

    Raises:
        ScoringError: if it names a file or folder.
    """
    scenes = Scenes() if data == Path() else Scenes.parse(str(data))
    if scenes is None:
        raise ScoringError(f"--data {data}: scenes are drawn, not read; give none, or which, as in scenes:seed=1,held_out=100.")
    return scenes


def _read(data: Path) -> list[Item]:
    scenes = scenes_of(data)
    if scenes.boxes:
        raise ScoringError(f"--data {data}: boxes are scored by how much they overlap: --benchmark scenes_refer.")
    return question_items(SceneCorpus(scenes, stage=2, split="test"))


def question_items(corpus: QuestionCorpus) -> list[Item]:
    """The questions of a corpus, as a benchmark asks them."""
    return [
        Item(
            f"{index}-{place}",
            question.text,
            question.answer,
            picture=corpus.name(index),
            part=question.kind,
            pictures=(partial(corpus.picture, index),),
        )
        for index in range(len(corpus))
        for place, question in enumerate(corpus.said(index))
    ]


def _exact(one: Answered) -> tuple[float, str]:
    return float(one.text == one.item.answer), one.text


def _figures(marks: Sequence[Mark]) -> dict[str, Any]:
    figures = accuracy(marks)
    return {"mean": mean(figures["parts"].values()), **figures}


def predictions(file: Path) -> list[Prediction]:
    """Lines as :func:`line` writes them, which hold what is right too."""
    found = []
    for row in read_rows(file):
        item = Item(row.text("id"), row.text("question"), row.text("answer"), row.text("picture"), row.text("kind"))
        found.append(Prediction(row.answer("prediction"), row.where, item.id, item.picture, item.question, item))
    return found


def line(said: Prediction) -> dict[str, Any]:
    """A question about a scene with what is right and what was said."""
    item = said.item
    assert item is not None
    known = {"id": item.id, "picture": item.picture, "kind": item.part, "question": item.question, "answer": item.answer}
    return {**known, "prediction": said.text}


ALL = (
    Benchmark(
        name="scenes",
        title="generated scenes",
        prompt="{question}",
        read=_read,
        predictions=predictions,
        rules=(Rule("exact", mark=each(_exact), figures=_figures),),
        submission=json_lines("scenes.jsonl", line),
        headline="mean",
        max_new_tokens=16,
        needs_data=False,
    ),
)
