"""The best constant answer: what one gets without looking."""

from __future__ import annotations

from collections import Counter, defaultdict

from pargo_mllm.data.questions import Sample
from pargo_mllm.evaluation.exact_match import Score


def best_constant_score(train: list[Sample], held_out: list[Sample]) -> Score:
    """Answer each kind of question with the answer that is most frequent in training."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in train:
        for question in sample.questions:
            answers[question.kind][question.answer] += 1
    score = Score()
    for sample in held_out:
        for question in sample.questions:
            common = answers[question.kind].most_common(1)
            score.add(question.kind, bool(common) and common[0][0] == question.answer)
    return score
