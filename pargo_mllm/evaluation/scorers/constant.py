"""The best constant answer: what one gets without looking."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from pargo_mllm.data.frames import iou
from pargo_mllm.data.questions import Question
from pargo_mllm.evaluation.scorers.boxes import RIGHT
from pargo_mllm.evaluation.scorers.exact_match import Score


def best_constant_score(train: Iterable[Question], held_out: Iterable[Question]) -> Score:
    """Answer each kind of question with the answer that is most frequent in training."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question in train:
        answers[question.kind][question.answer] += 1
    score = Score()
    for question in held_out:
        common = answers[question.kind].most_common(1)
        score.add(question.kind, bool(common) and common[0][0] == question.answer)
    return score


def best_constant_box(right: Iterable[Sequence[float]], said: Iterable[Sequence[float]]) -> int:
    """How many of the right boxes the best one of those that can be ``said`` overlaps enough: what is had without looking."""
    often = Counter(tuple(box) for box in right)
    return max((sum(count for other, count in often.items() if iou(box, other) >= RIGHT) for box in said), default=0)
