"""A benchmark's questions put to a model: sorted by length, those about one picture together, in batches.

What is answered is kept at once (:mod:`pargo_mllm.evaluation.runs.journal`). Which process asks what, and in which batch,
changes no answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from accelerate.utils.memory import should_reduce_batch_size
from PIL import Image
from tqdm.auto import tqdm

from pargo_mllm.answering.prompts import Prompt, common_lead, rated_prompt
from pargo_mllm.answering.reader import Reader
from pargo_mllm.data.feeding.chat_format import ConversationError
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.evaluation.benchmark import Benchmark, EvaluationError, Item, Rule
from pargo_mllm.evaluation.runs.journal import Journal, key_of

# batches whose pictures are opened while the model is at work
_AHEAD = 2
_OPENING = 4


@dataclass(frozen=True)
class Question:
    """One thing that a model is asked: an item, or of a ranking one of its choices.

    Args:
        letter: the choice; empty where the model answers in words.
        key: what the answer is kept under.
    """

    item: Item
    letter: str
    key: str

    @property
    def group(self) -> str:
        """Questions with the same one show the same pictures."""
        return self.item.picture if self.item.pictures and self.item.picture else f"\0{self.item.id}"


def questions(benchmark: Benchmark, rule: Rule, items: Sequence[Item], depends_on: dict[str, Any]) -> list[Question]:
    """All that has to be asked.

    Args:
        depends_on: what an answer depends on beside the question: the weights' digest and the settings.

    Raises:
        EvaluationError: for an item without choices where choices are ranked.
    """
    asked = []
    for item in items:
        if rule.ranks and len(item.choices) < 2:
            raise EvaluationError(f"--rule {rule.name} ranks choices, and question {item.id} has {len(item.choices)}.")
        for letter in item.choices if rule.ranks else ("",):
            choice = item.choices[letter] if letter else None
            of = {**depends_on, "picture": item.picture, "id": item.id, "asked": benchmark.asked(item), "choice": choice}
            asked.append(Question(item, letter, key_of(of)))
    return asked


@dataclass
class Asking:
    """Puts questions to a model.

    Args:
        batch_size: prompts at a time; halved, and said, when memory runs out.
        rank, size: of this process among those that share the work.
    """

    benchmark: Benchmark
    reader: Reader
    kept: Journal
    batch_size: int
    max_new_tokens: int
    rank: int = 0
    size: int = 1
    leads: dict[str, int] = field(default_factory=dict)

    def ask(self, asked: Sequence[Question]) -> None:
        """Have every question of this process's share answered and kept.

        Raises:
            EvaluationError: for a picture that cannot be used or a question that is too long; it names the question.
        """
        groups = self._groups(asked)
        by_group = {group[0].group: group for group in groups}
        mine = [question for group in groups[self.rank :: self.size] for question in group]
        left = [question for question in mine if question.key not in self.kept]
        title = f"{self.benchmark.title}, {len(mine) - len(left):,} kept" if len(left) < len(mine) else self.benchmark.title
        with (
            tqdm(total=len(left), desc=title, unit="question", disable=self.rank != 0, dynamic_ncols=True) as bar,
            _OpenedAhead() as pictures,
        ):
            done = 0
            while done < len(left):
                batch = left[done : done + self.batch_size]
                pictures.want(left[done : done + (1 + _AHEAD) * self.batch_size])
                if not self._batch(batch, by_group, pictures):
                    continue
                done += len(batch)
                following = {left[done].group} if done < len(left) else set()
                self.reader.forget(following)
                pictures.forget({question.group for question in batch} - following)
                bar.update(len(batch))

    def _batch(self, batch: Sequence[Question], by_group: Mapping[str, list[Question]], pictures: _OpenedAhead) -> bool:
        """Whether memory sufficed."""
        try:
            prompts = [self._prompt(question, pictures.openers(question)) for question in batch]
            for prompt in prompts:
                if prompt.group not in self.leads:
                    self.leads[prompt.group] = common_lead([self._prompt(one) for one in by_group[prompt.group]])
            if batch[0].letter:
                entries: list[dict[str, Any]] = [{"loss": loss} for loss in self.reader.losses(prompts, self.leads)]
            else:
                said = self.reader.answer(prompts, self.leads, self.max_new_tokens)
                entries = [{"text": one.text, "tokens": len(one.ids), "near_ties": one.near_ties} for one in said]
        except (PictureError, ConversationError) as error:
            ids = ", ".join(dict.fromkeys(question.item.id for question in batch))
            raise EvaluationError(f"{self.benchmark.name}, among the questions {ids[:200]}: {error}") from error
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            self._halve()
            return False
        self.kept.add({question.key: entry for question, entry in zip(batch, entries, strict=True)})
        return True

    def _halve(self) -> None:
        self.reader.forget()
        if self.batch_size == 1:
            raise EvaluationError(
                "memory does not suffice for one question at a time: use --dtype bfloat16, or another device."
            )
        self.batch_size //= 2
        tqdm.write(f"memory ran out; the batch size is {self.batch_size} from here on", file=sys.stderr)

    def _groups(self, asked: Sequence[Question]) -> list[list[Question]]:
        """Questions by group, those of like lengths next to each other: padding is computed too."""
        by_group: dict[str, list[Question]] = {}
        for question in asked:
            by_group.setdefault(question.group, []).append(question)
        return sorted(by_group.values(), key=lambda group: (max(map(self._length, group)), group[0].group))

    def _length(self, question: Question) -> int:
        return len(self.benchmark.asked(question.item)) + len(question.item.choices.get(question.letter, ""))

    def _prompt(self, question: Question, openers: tuple[Callable[[], Image.Image], ...] = ()) -> Prompt:
        conversation, chat_format = self.benchmark.conversation(question.item), self.reader.processor.chat_format
        if not question.letter:
            return Prompt(tuple(chat_format.prompt_tokens(conversation)), openers, question.group)
        return rated_prompt(chat_format, conversation, question.item.choices[question.letter], openers, question.group)


class _OpenedAhead:
    """Pictures of the next batches, opened by threads meanwhile."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(_OPENING, thread_name_prefix="pictures")
        self._opened: dict[str, list[Future]] = {}

    def __enter__(self) -> _OpenedAhead:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

    def want(self, coming: Sequence[Question]) -> None:
        """Begin to open what these show."""
        for question in coming:
            if question.group not in self._opened:
                self._opened[question.group] = [self._pool.submit(opens) for opens in question.item.pictures]

    def openers(self, question: Question) -> tuple[Callable[[], Image.Image], ...]:
        """What waits for a question's pictures."""
        return tuple(future.result for future in self._opened[question.group])

    def forget(self, groups: set[str]) -> None:
        """Let go of pictures."""
        for group in groups:
            self._opened.pop(group, None)
