"""Charts of accuracies and losses from a demonstration's results."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import wrap
from typing import Any

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.container import BarContainer

from pargo_mllm.pictures.style import FAINT, INK, PAPER, RULE, SERIES, new_figure, save_figure

STAGES = {"before": "before training", "stage1": "after stage 1 (captions)", "stage2": "after stage 2 (answers)"}
BASELINES = {"constant": "best constant answer", "text_only": "without the picture", "shuffled": "another picture"}
_DASHES = ((0, (1, 1.2)), (0, (4, 2)), (0, (6, 1.5, 1, 1.5)), "solid")


def stages_of(projectors: list[dict[str, Any]]) -> dict[str, str]:
    """The stages that any of the projectors was measured after, with their names."""
    return {stage: name for stage, name in STAGES.items() if any(stage in projector for projector in projectors)}


def baseline_name(key: str) -> str:
    """What a baseline is called in charts and tables."""
    return BASELINES.get(key, key)


def projector_name(projector: dict[str, Any]) -> str:
    """A projector's name with its number of tokens."""
    return f"{projector['name']} · {projector['tokens']} tokens"


def draw_accuracy(results: dict[str, Any], path: str | os.PathLike) -> Path:
    """Bars of exact match: above by stage, one group a projector, baselines as lines; below by kind of question.

    Args:
        results: ``projectors`` (each ``name``, ``tokens``, and for ``before``, ``stage1``, ``stage2`` a ``mean`` and ``kinds``)
            and ``baselines``; shares in 0...1.
    """
    projectors, baselines = results["projectors"], results.get("baselines", {})
    stages = stages_of(projectors)
    last = list(stages)[-1]
    measured = [projector for projector in projectors if last in projector]
    kinds = list(dict.fromkeys(kind for projector in measured for kind in projector[last].get("kinds", {})))
    figure = new_figure(11, 7.6 if kinds else 4.2)
    heights = {"height_ratios": (1, 0.92)} if kinds else {}
    axes = figure.subplots(2 if kinds else 1, 1, gridspec_kw=heights, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.065, right=0.775, top=0.93, bottom=0.08, hspace=0.42)

    groups = [projector_name(projector) for projector in projectors]
    bars = {
        name: [projector[stage]["mean"] if stage in projector else None for projector in projectors]
        for stage, name in stages.items()
    }
    _bars(axes[0], groups, bars, colours=("#c6cedb", "#7f9cc4", SERIES[0]))
    for index, (key, score) in enumerate(baselines.items()):
        label = f"{baseline_name(key)}: {100 * score['mean']:.1f} %"
        # behind the bars
        axes[0].axhline(score["mean"], zorder=0.9, color=INK, lw=1.1, ls=_DASHES[index % len(_DASHES)], label=_plain(label))
    _finish(axes[0], "Exact match on held-out pictures, mean over kinds of questions")
    if kinds:
        by_kind = {projector_name(projector): [projector[last]["kinds"].get(kind) for kind in kinds] for projector in measured}
        constant = baselines.get("constant", {}).get("kinds", {})
        _bars(axes[1], kinds, by_kind, colours=SERIES)
        _ticks(axes[1], [constant.get(kind) for kind in kinds])
        _finish(axes[1], f"By kind of question, {STAGES[last]}")
    return save_figure(figure, path)


def draw_loss(results: dict[str, Any], path: str | os.PathLike) -> Path:
    """Training loss of every projector, one panel a stage: ``loss`` of each is ``{stage: [{"step", "loss"}, ...]}``."""
    projectors = results["projectors"]
    stages = list(dict.fromkeys(stage for projector in projectors for stage in projector.get("loss", {}))) or ["stage1"]
    figure = new_figure(11, 4)
    axes = figure.subplots(1, len(stages), squeeze=False)[0]
    figure.subplots_adjust(left=0.065, right=0.775, top=0.88, bottom=0.15, wspace=0.18)
    for ax, stage in zip(axes, stages, strict=True):
        for index, projector in enumerate(projectors):
            log = projector.get("loss", {}).get(stage, [])
            steps, losses = [entry["step"] for entry in log], [entry["loss"] for entry in log]
            # a point alone is no line
            style = {"marker": "o", "ms": 3} if len(steps) < 3 else {}
            ax.plot(steps, losses, color=_colour(index), lw=1.8, label=_plain(projector_name(projector)), **style)
        ax.set_xlabel("step", color=FAINT)
        ax.set_ylim(bottom=0)
        _frame(ax, f"Loss {STAGES[stage].replace('after', 'in')}" if stage in STAGES else f"Loss, {_plain(stage)}")
    axes[0].set_ylabel("cross-entropy, nats a token", color=FAINT)
    _legend(axes[-1])
    return save_figure(figure, path)


def _bars(ax: Axes, groups: list[str], series: dict[str, list[float | None]], colours: tuple[str, ...]) -> None:
    width = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        places = [group - 0.4 + (index + 0.5) * width for group in range(len(groups))]
        shown = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
        ax.bar(
            [place for place, _ in shown],
            [value for _, value in shown],
            width * 0.94,
            color=colours[index % len(colours)],
            label=_plain(name),
        )
        size = max(5.0, min(9.0, 60 * width / max(1, len(groups)) * 2.2))
        for place, value in shown:
            halo = [patheffects.withStroke(linewidth=2.5, foreground=PAPER)]
            ax.text(
                place,
                value + 0.012,
                f"{100 * value:.0f}",
                ha="center",
                va="bottom",
                fontsize=size,
                color=INK,
                path_effects=halo,
            )
    ax.set_xticks(range(len(groups)), [_plain(group) for group in groups], fontsize=9.5)
    ax.set_xlim(-0.55, len(groups) - 0.45)


def _ticks(ax: Axes, values: list[float | None]) -> None:
    """A short black line across each group: the best constant answer of that kind."""
    known = [(group, value) for group, value in enumerate(values) if value is not None]
    if known:
        ax.hlines(
            [value for _, value in known],
            [group - 0.42 for group, _ in known],
            [group + 0.42 for group, _ in known],
            color=INK,
            lw=1.3,
            ls=_DASHES[0],
            label=BASELINES["constant"],
        )


def _finish(ax: Axes, title: str) -> None:
    ax.set_ylim(0, 1.08)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    _frame(ax, title)
    _legend(ax)


def _frame(ax: Axes, title: str) -> None:
    ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    ax.grid(axis="y", color=RULE, lw=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, colors=INK)
    for name, spine in ax.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(RULE)


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    # bars first, lines after them
    order = sorted(range(len(handles)), key=lambda index: not isinstance(handles[index], BarContainer))
    handles, labels = [handles[index] for index in order], ["\n".join(wrap(labels[index], 28)) for index in order]
    ax.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.8,
    )


def _colour(index: int) -> str:
    return SERIES[index % len(SERIES)]


def _plain(text: str) -> str:
    # names come from users: a dollar sign is no formula, and a leading underscore hides nothing
    return f" {text}".replace("$", r"\$") if text.startswith("_") else text.replace("$", r"\$")
