"""Where things of generated scenes are: the box of what an expression means, as refcoco asks it of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pargo_mllm.data.scenes.corpus import SceneCorpus
from pargo_mllm.data.scenes.referring import Cells, all_cells, read_cells, write_cells
from pargo_mllm.evaluation.benchmark import Answered, Benchmark, Item, Mark, Rule, ScoringError, accuracy
from pargo_mllm.evaluation.benchmarks.scenes import line, predictions, question_items, scenes_of
from pargo_mllm.evaluation.scorers.boxes import RIGHT, Pair, overlap
from pargo_mllm.evaluation.scorers.constant import best_constant_box
from pargo_mllm.evaluation.writing.submissions import json_lines


def _read(data: Path) -> list[Item]:
    return question_items(SceneCorpus(replace(scenes_of(data), boxes=1), stage=2, split="test"))


def _marks(answered: Sequence[Answered]) -> list[Mark]:
    return [_mark(one) for one in answered]


def _mark(one: Answered) -> Mark:
    right, said = read_cells(str(one.item.answer)), read_cells(one.text)
    if right is None:
        raise ScoringError(f"{one.where}: the right answer {one.item.answer!r} is no box, as A3,D6 is.")
    # both count cells
    value = float(overlap(Pair(said, right), "pixels") >= RIGHT)
    return Mark(one.item, one.text, value, write_cells(said) if said else "no box", {"right": right, "unread": said is None})


def _figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """``accuracy``, the share of boxes whose IoU with the right one is 0.5 or more, by kind in ``parts``; ``constant``, what
    the best of all boxes gets, said of every thing of a kind; ``unread``, how many texts had no box."""
    by_kind: dict[str, list[Cells]] = {}
    for mark in marks:
        by_kind.setdefault(mark.item.part, []).append(mark.extra["right"])
    constant = sum(best_constant_box(right, all_cells()) for right in by_kind.values()) / len(marks)
    return {**accuracy(marks), "constant": constant, "unread": sum(mark.extra["unread"] for mark in marks)}


ALL = (
    Benchmark(
        name="scenes_refer",
        title="things of generated scenes",
        prompt="{question}",
        read=_read,
        predictions=predictions,
        rules=(Rule("cells", mark=_marks, figures=_figures),),
        submission=json_lines("scenes_refer.jsonl", line),
        max_new_tokens=16,
        needs_data=False,
    ),
)
