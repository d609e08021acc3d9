"""An evaluation from beginning to end: a model's answers to a benchmark's questions, and what they are worth."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pargo_mllm.answering.reader import Reader
from pargo_mllm.data.corpus import shown
from pargo_mllm.evaluation.asking.batches import Asking, Question, questions
from pargo_mllm.evaluation.benchmark import Answered, Benchmark, EvaluationError, Item, Prediction, Rule
from pargo_mllm.evaluation.runs.journal import Journal
from pargo_mllm.evaluation.runs.run_folder import RUN
from pargo_mllm.model_files import read_object

# what makes two runs the same
_SAME = ("benchmark", "rule", "weights", "data", "prompt", "dtype", "max_new_tokens")


@dataclass(frozen=True)
class Settings:
    """How a benchmark is asked.

    Args:
        limit: the first questions alone; all where None.
        batch_size: prompts at a time.
        max_new_tokens: of an answer.
        share: read what prompts about a picture have in common once; where the model allows it when None.
    """

    limit: int | None
    batch_size: int
    max_new_tokens: int
    share: bool | None = None


@dataclass(frozen=True)
class Run:
    """What was asked and answered.

    Args:
        items: the questions, in the benchmark's order.
        predictions: what the model said, in the same order.
        about: how it was asked, for the result and for a repetition.
    """

    items: list[Item]
    predictions: list[Prediction]
    about: dict[str, Any]

    def answered(self) -> list[Answered]:
        """Each question with its answer."""
        return [
            Answered(item, said.text, said.where, said.losses) for item, said in zip(self.items, self.predictions, strict=True)
        ]


def open_items(benchmark: Benchmark, data: Path | None, limit: int | None) -> list[Item]:
    """The questions of ``--data``, in the benchmark's order.

    Raises:
        EvaluationError: if there is no data, or there are no questions, or an id comes twice.
    """
    if data is None and benchmark.needs_data:
        raise EvaluationError(f"--benchmark {benchmark.name} needs --data, the folder or file of its questions and pictures.")
    if data is not None and benchmark.needs_data and not data.exists():
        raise EvaluationError(f"--data {data} does not exist.")
    items = benchmark.read(data) if data is not None else benchmark.read(Path())
    if not items:
        raise EvaluationError(f"--data {data} holds no question of {benchmark.title}.")
    first: dict[str, int] = {}
    for place, item in enumerate(items):
        if first.setdefault(item.id, place) != place:
            raise EvaluationError(
                f"--data {data}: the id {shown(item.id)} comes twice, as questions {first[item.id]} and {place}."
            )
    return items[:limit]


def check_same_run(folder: Path, about: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another run: it would be lost.

    Raises:
        EvaluationError: it says what differs.
    """
    file = folder / RUN
    if not file.is_file():
        if folder.exists() and not folder.is_dir():
            raise EvaluationError(f"--out {folder} is no folder.")
        return
    held = read_object(file, EvaluationError)
    differ = [name for name in _SAME if held.get(name) != about[name]]
    if differ:
        told = ", ".join(f"{name} {held.get(name)} there and {about[name]} here" for name in differ)
        raise EvaluationError(f"--out {folder} holds another run ({told}); give another folder, or take that one away.")


def ask(
    benchmark: Benchmark,
    rule: Rule,
    items: Sequence[Item],
    folder: Path,
    reader: Reader,
    settings: Settings,
    weights: str,
    rank: int = 0,
    size: int = 1,
    all_are_done: Callable[[], None] = lambda: None,
) -> Run:
    """Have all questions answered. What was kept in ``folder`` by the same model with the same settings is not asked again.

    Args:
        folder: of the run; it exists.
        weights: the digest of the model's folder, and of what else its answers depend on.
        rank, size: of this process among those that share the work.
        all_are_done: returns when every process has answered its share.

    Raises:
        EvaluationError: for a picture that cannot be used, a question that is too long, and memory that does not suffice.
    """
    depends_on = {"weights": weights, "dtype": str(reader.model.dtype), "benchmark": benchmark.name}
    if not rule.ranks:
        depends_on["max_new_tokens"] = str(settings.max_new_tokens)
    asked = questions(benchmark, rule, items, depends_on)
    with closing(Journal(folder, rank)) as journal:
        kept = sum(question.key in journal for question in asked)
        asking = Asking(benchmark, reader, journal, settings.batch_size, settings.max_new_tokens, rank, size)
        started = time.perf_counter()
        asking.ask(asked)
        seconds = time.perf_counter() - started
        all_are_done()
        journal.read()
        about = {
            "settings": {
                **asdict(settings),
                "share": reader.shares,
                "batch_size_at_the_end": asking.batch_size,
                "dtype": str(reader.model.dtype).removeprefix("torch."),
                "device": str(reader.model.device.type),
                "processes": size,
            },
            "kept_before": kept,
            "seconds": seconds,
            "pictures_a_second": reader.pictures_read / seconds if reader.pictures_read else None,
            **_near_ties(asked, journal),
        }
        return Run(list(items), _predictions(items, asked, journal, rule), about)


def _predictions(items: Sequence[Item], asked: Sequence[Question], journal: Journal, rule: Rule) -> list[Prediction]:
    of: dict[str, list[Question]] = {}
    for question in asked:
        of.setdefault(question.item.id, []).append(question)
    predictions = []
    for item in items:
        entries = {question.letter: journal[question.key] for question in of[item.id]}
        losses = {letter: entry["loss"] for letter, entry in entries.items()} if rule.ranks else None
        text = min(losses, key=lambda letter: losses[letter]) if losses else entries[""]["text"]
        where = f"the answer to question {item.id}"
        predictions.append(Prediction(text, where, item.id, item.picture or None, item.question, item, losses))
    return predictions


def _near_ties(asked: Sequence[Question], journal: Journal) -> dict[str, Any]:
    """Tokens that rounding decides, of the answers in words."""
    entries = [journal[question.key] for question in asked if not question.letter]
    tied = [entry["near_ties"] for entry in entries if entry["near_ties"]]
    return {"near_ties": {"tokens": sum(tied), "answers": len(tied), "of": len(entries)}} if entries else {}


def say_near_ties(about: dict[str, Any]) -> None:
    """One line for people: how often rounding had a say."""
    ties = about.get("near_ties")
    if ties and ties["tokens"]:
        counts = f"{ties['tokens']:,} tokens in {ties['answers']:,} of {ties['of']:,} answers"
        print(f"near ties: {counts}; another batch size may say another word there", file=sys.stderr)
