"""What the demonstration says about its own figures: the table, what they show, and what they do not."""

from __future__ import annotations

from typing import Any

# a projector without one here is called by its type
NAMES = {
    "pargo": "ParGo",
    "qformer": "Q-Former",
    "linear": "Linear",
    "mlp": "MLP",
    "resampler": "Resampler",
    "c_abstractor": "C-Abstractor",
    "d_abstractor": "D-Abstractor",
}
STAGES = {"before": "untrained", "stage1": "after stage 1", "stage2": "after stage 2"}
BASELINES = {"constant": "best constant answer", "text_only": "text only", "shuffled": "another picture"}


def table(results: dict[str, Any]) -> str:
    """Held-out exact match in percent, by kind of question, and the words below it."""
    kinds = list(results["baselines"]["constant"]["kinds"])
    rows = [("", "tokens", *kinds, "mean")]
    for projector in results["projectors"]:
        for stage, title in STAGES.items():
            rows.append((f"{projector['name']}, {title}", str(projector["tokens"]), *_percents(projector[stage], kinds)))
    for baseline, title in BASELINES.items():
        rows.append((title, "", *_percents(results["baselines"][baseline], kinds)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    data = results["data"]
    seconds = [f"  {phase:<28} {value:7.1f} s" for phase, value in results["seconds"].items()]
    return "\n".join(
        [
            "",
            f"Held-out exact match in %: {data['questions']:,} questions about {data['test']:,} pictures ({data['name']})",
            *lines,
            "",
            "What this shows",
            *(f"  - {line}" for line in results["shows"]),
            "What it does not show",
            *(f"  - {line}" for line in results["limits"]),
            "",
            "Seconds (a phase found in the cache: those it took when it ran)",
            *seconds,
        ]
    )


def shows(results: dict[str, Any]) -> list[str]:
    """Plain sentences made of this run's figures alone."""
    pargo, *others = results["projectors"]
    baselines = results["baselines"]
    lines = [
        f"Held-out exact match of ParGo: {_percent(pargo['before'])} % untrained, {_percent(pargo['stage1'])} % after stage 1, "
        f"{_percent(pargo['stage2'])} % after stage 2; the best constant answer gets {_percent(baselines['constant'])} %.",
        f"What the picture contributes: with the picture hidden the trained model gets {_percent(baselines['text_only'])} %, "
        f"with another picture {_percent(baselines['shuffled'])} %.",
    ]
    for other in others:
        lines.append(
            f"{other['name']} with {other['tokens']} tokens, trained alike: {_percent(other['stage1'])} % after stage 1 and "
            f"{_percent(other['stage2'])} % after stage 2; ParGo has {pargo['tokens']} tokens."
        )
    return lines


def limits(results: dict[str, Any], photographs: bool) -> list[str]:
    """What must not be read into the figures."""
    data, compared = results["data"], len(results["projectors"]) > 1
    lines = []
    if results["scale"] == "tiny":
        lines.append("The tiny scale learns nothing: it checks that everything runs.")
    if photographs:
        lines += [
            f"{data['questions']:,} questions about {data['test']:,} held-out photographs measure little: differences of a "
            "few points are chance.",
            f"The encoder was trained on {data['train']:,} views of the folder's own photographs and on nothing else. It "
            "cannot know what most things look like; low figures are to be expected, and real encoders are the remedy.",
        ]
    else:
        lines += [
            "The task favours slices: every small thing lies in one cell of the encoder's grid, and questions ask by cell.",
            "There is no evidence for global tokens here: what they could tell, partial tokens tell as well. What the cascade "
            "adds is gone after stage 2, and full self-attention among partial tokens does about as well.",
            "A linear projector has more tokens; with three times the steps in stage 2 it caught up on validation scenes.",
            "The encoder learned in stage 0 from labels of scenes of the same kind. A real encoder has not seen the task.",
            "Stage 0 is the same for every seed, and much depends on it: with parts from another seed, details came only in "
            "stage 2, and fewer of them.",
        ]
    if compared:
        lines.append(
            "Steps and learning rates were chosen for ParGo on validation scenes; the other projectors may do better with "
            "their own."
        )
    return [
        *lines,
        "One seed, a language model of two layers, and a vocabulary of its own: this says that the training works, not how "
        "good a full-sized model is.",
    ]


def _percents(score: dict[str, Any], kinds: list[str]) -> list[str]:
    by_kind = [f"{100 * score['kinds'][kind]:.0f}" if kind in score["kinds"] else "-" for kind in kinds]
    return [*by_kind, _percent(score)]


def _percent(score: dict[str, Any]) -> str:
    return f"{100 * score['mean']:.1f}"
