"""What was found, for people: lines of a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pargo_mllm.alignment.comparing import FIGURES
from pargo_mllm.data.corpus import counted, shown

MISSING = "–"
# names of things in a line
_NAMES = 12


def lines(told: Mapping[str, Any]) -> str:
    """The figures of every model, what was left out and why, and the differences between models."""
    said = [_data(told["data"], len(told["models"]))]
    for model in told["models"]:
        said += ["", *_model(model)]
    if told["comparison"]:
        said += ["", *_comparison(told["comparison"])]
    return "\n".join(said)


def _data(data: Mapping[str, Any], models: int) -> str:
    names = data["words"]
    told = f"{len(names)} names of things: {', '.join(map(shown, names[:_NAMES]))}{', …' if len(names) > _NAMES else ''}"
    unspelled = list(data["words_left_out"])
    said = (
        f"{shown(data['source'])} ({data['split']}): {data['pictures']:,} pictures, of {data['with_regions']:,} it is known "
        f"what is where{counted(data['skipped'])}\n{told if names else 'no names of things'}"
    )
    if unspelled:
        cannot = "the model cannot" if models == 1 else "not every model can"
        more = ", …" if len(unspelled) > _NAMES else ""
        said += f"; {cannot} spell {', '.join(map(shown, unspelled[:_NAMES]))}{more}"
    if data["of_another_shape"]:
        who = shown(data["patch_labels"] or "instances.json")
        said += f"\n{data['of_another_shape']:,} pictures have another shape than {who} says, and are not labelled"
    for kind, tally in data["labels"].items():
        if tally["skipped"]:
            used = f"of {tally['entries']:,} {kind} {tally['used']:,} used"
            said += f"\n{shown(data['patch_labels'])}: {used}{counted(tally['skipped'])}"
    return said


def _model(model: Mapping[str, Any]) -> list[str]:
    said = [
        f"{shown(model['name'])}: {model['projector']}, {model['features']:,} features of {model['width_before']:,} -> "
        f"{model['tokens']:,} tokens of {model['width_after']:,}, {model['dtype']}"
    ]
    said += [f"  {note}" for note in model["notes"]]
    for part, tell in _PARTS.items():
        if part in model:
            said += [f"  {line}" for line in tell(model[part])]
    said += [f"  {part} left out: {why}" for part, why in model["left_out"].items()]
    return said


def entropy_lines(entropy: Mapping[str, Any]) -> list[str]:
    """Before and after the projector."""
    before, after = entropy["before"], entropy["after"]
    most = [where["a_picture_at_most"] for where in (before, after)]
    return [
        f"entropy of a picture: {_spread(before['a_picture'])} nats before the projector (at most {most[0]:.2f}), "
        f"{_spread(after['a_picture'])} after it (at most {most[1]:.2f}); change {_spread(entropy['change'], '+')}",
        f"entropy of all pictures: {number(before['all_pictures'])} before, {number(after['all_pictures'])} after; centred "
        f"{number(before['all_pictures_centred'])}, {number(after['all_pictures_centred'])}",
    ]


def segmentation_lines(scores: Mapping[str, Any]) -> list[str]:
    """IoU of words' maps with masks, beside maps that know nothing."""
    pixels, grid = scores["pixels"], scores["grid"]
    if not scores["pictures"]:
        return ["segmentation: none of the pictures shows one of the words"]
    return [
        f"segmentation, {scores['words_shown']:,} words: IoU {percent(pixels['mean_iou_labelled'])} in what has a name, "
        f"{percent(pixels['mean_iou'])} in whole pictures; on the grid {percent(grid['mean_iou_labelled'])}, "
        f"{percent(grid['mean_iou'])} (the most frequent word everywhere: {percent(pixels['most_frequent_labelled'])}, "
        f"{percent(pixels['most_frequent'])})",
        f"a picture's words: IoU {percent(scores['picture_iou'])} (whole pictures: "
        f"{percent(scores['picture_iou_of_the_whole_picture'])}); ranked AUC {number(scores['auc'])} (chance 0.500), average "
        f"precision {number(scores['ap'])} (chance {number(scores['ap_by_chance'])})",
    ]


def words_lines(words: Mapping[str, Any]) -> list[str]:
    """What tokens are made of."""
    kind = "non-negative" if words["non_negative"] else "signed"
    explained = ", ".join(percent(share) for share in words["explained"])
    return [
        f"words of {words['tokens']:,} tokens out of {words['of_words']:,} ({kind}): {words['num_words']:.2f} different ones a "
        f"token, cosine {words['cosine'][-1]:.3f}; explained after each {explained}"
    ]


def alignment_lines(scores: Mapping[str, Any]) -> list[str]:
    """How close tokens and the words of what they show are."""
    if "centred" not in scores:
        return []
    best = scores["centred"]
    said = [
        f"words of {best['tokens']:,} tokens that show a thing: cosine {best['alignment']:.3f} (not centred "
        f"{scores['as_they_are']['alignment']:.3f}); nearest word right {percent(best['accuracy'])}, a word "
        f"{percent(best['class_mean'])} (the most frequent: {percent(best['most_frequent'])}, chance {percent(best['chance'])})"
    ]
    before = scores.get("before_the_projector")
    if before is not None:
        said.append(f"before the projector: cosine {before['alignment']:.3f}, nearest word right {percent(before['accuracy'])}")
    return said


def attribution_lines(found: Mapping[str, Any]) -> list[str]:
    """Which maps of tokens may be believed."""
    check = found.get("check")
    if check is None:
        return [f"attribution by {', '.join(found['methods'])}"] if found["methods"] else []
    said = [f"causal check: {check['questions']:,} questions; nats that the right answer loses with a thing's tokens"]
    for method, one in check["methods"].items():
        own, error = one["difference"]["value"], one["difference"]["error"]
        between = "" if error is None else f" ± {error:.3f}"
        said.append(
            f"  {method}: {one['effect']['value']:+.3f}, as many random ones {one['random']:+.3f}: {own:+.3f}{between}: "
            f"{one['verdict']}"
        )
    return said


_PARTS = {
    "entropy": entropy_lines,
    "alignment": alignment_lines,
    "segmentation": segmentation_lines,
    "words": words_lines,
    "attribution": attribution_lines,
}


def _comparison(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    said = ["differences on the same pictures (standard error; 95 % interval; pictures higher / lower)"]
    for row in rows:
        interval = row["interval_95"]
        between = MISSING if interval is None else f"{interval[0]:+.3f} … {interval[1]:+.3f}"
        said.append(
            f"  {shown(row['second'])} against {shown(row['first'])}: {FIGURES[row['figure']]}: {row['first_mean']:.3f} -> "
            f"{row['second_mean']:.3f}, {row['difference']:+.3f} ({number(row['error'])}; {between}; {row['higher']} / "
            f"{row['lower']} of {row['pictures']})"
        )
    return said


def percent(value: float | None) -> str:
    """A share of 1."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    """A figure of three digits behind the point."""
    return MISSING if value is None else f"{value:.3f}"


def _spread(values: Mapping[str, Any], sign: str = "") -> str:
    if values["mean"] is None:
        return MISSING
    error = "" if values["error"] is None else f" ± {values['error']:.2f}"
    return f"{values['mean']:{sign}.2f}{error}"
