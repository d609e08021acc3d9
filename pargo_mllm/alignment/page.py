"""A page of what was found: figures side by side, plots, and pictures on which each patch shows its words."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pargo_mllm.alignment.closely import Close, Token
from pargo_mllm.alignment.comparing import FIGURES, spread
from pargo_mllm.alignment.run import Outcome
from pargo_mllm.alignment.telling import MISSING, number, percent
from pargo_mllm.reports.page import definitions, picture, table, text, unfolds, write_page

_TITLE = "What projectors keep, and which words their tokens speak"
_STYLE = """
.look { display: grid; grid-template-columns: minmax(16rem, 24rem) 1fr; gap: 1rem; margin: .6rem 0 1.6rem; }
.board { position: relative; aspect-ratio: 1; }
.board img { position: absolute; inset: 0; height: 100%; margin: 0; border-radius: 0; }
.patches { position: absolute; inset: 0; display: grid; }
.patches button { background: none; border: 0; outline: 1px solid rgb(255 255 255 / .14); padding: 0; cursor: crosshair; }
.patches button.own { background: rgb(255 255 255 / .22); outline: 2px solid #fff; z-index: 1; }
section:has(.tint:checked) .patches button { background: var(--word); }
section:has(.tint:checked) .patches button.right { outline: 2px solid #1d7a3a; z-index: 1; }
.token { display: none; font-size: .9rem; margin-bottom: .7rem; }
.token.shown, .token.always { display: block; }
.token ol { margin: .1rem 0; padding-left: 1.4rem; columns: 2; }
.where { min-height: 2.6rem; font-size: .9rem; }
@media (max-width: 44rem) { .look { grid-template-columns: 1fr; } }
"""
# the patch that is pointed at, or was clicked last, shows its tokens
_SCRIPT = """
for (const look of document.querySelectorAll('.look')) {
  const patches = [...look.querySelectorAll('button')];
  const show = patch => {
    const mine = patch.dataset.tokens.split(' ');
    look.querySelector('.where').textContent = patch.title;
    for (const one of look.querySelectorAll('.token:not(.always)'))
      one.classList.toggle('shown', mine.includes(one.dataset.token));
    patches.forEach(one => one.classList.toggle('own', one.dataset.tokens.split(' ')[0] === mine[0]));
  };
  let kept = patches[0];
  for (const patch of patches) {
    patch.addEventListener('mouseenter', () => show(patch));
    patch.addEventListener('focus', () => show(patch));
    patch.addEventListener('click', () => { kept = patch; show(patch); });
  }
  look.querySelector('.patches').addEventListener('mouseleave', () => show(kept));
  show(kept);
}
"""


def write_align_page(file: Path, outcome: Outcome, plots: Mapping[str, Path]) -> Path:
    """Write it. Pictures and plots are inside; nothing is loaded from elsewhere."""
    told = outcome.told
    parts = [
        f"<style>{_STYLE}</style><noscript><style>.token {{ display: block; }}</style></noscript>",
        f"<h1>{text(_TITLE)}</h1>",
        f"<p class='lead'>{text(_lead(told['data']))}</p>",
        _figures(told["models"]),
        *_left_out(told["models"]),
        *([_comparison(told["comparison"])] if told["comparison"] else []),
        *_made_of(told["models"]),
        *_checks(told["models"]),
        *_by_word(told["models"]),
        *_pictures(outcome),
    ]
    if plots:
        parts.append("<h2>Plots</h2>")
        parts += [f"<h3>{text(title)}</h3>{picture(_plot(plot), title)}" for title, plot in plots.items()]
    parts += ["<h2>Made with</h2>", definitions(_made_with(told)), f"<script>{_SCRIPT}</script>"]
    return write_page(file, _TITLE, parts)


def _lead(data: Mapping[str, Any]) -> str:
    skipped = "".join(f"; left out: {count:,} × {reason}" for reason, count in data["skipped"].items())
    return (
        f"{data['pictures']:,} pictures of {data['source']} ({data['split']}), of {data['with_regions']:,} it is known what is "
        f"where: {len(data['words']):,} names of things{skipped}."
    )


def _figures(models: Sequence[Mapping[str, Any]]) -> str:
    shown = [figure for figure in FIGURES if any(spread(model["by_picture"].get(figure, ()))["pictures"] for model in models)]
    rows = []
    for model in models:
        cells = [f"<td>{text(model['projector'])}</td><td>{model['features']:,} → {model['tokens']:,}</td>"]
        for figure in shown:
            values = spread(model["by_picture"].get(figure, ()))
            error = "" if values["error"] is None else f" ± {values['error']:.3f}"
            cells.append(f"<td>{text(number(values['mean']))}{error}</td>")
        rows.append(f"<tr><th scope='row'>{text(model['name'])}</th>{''.join(cells)}</tr>")
    note = "<p>Means over pictures with their standard errors.</p>" if shown else ""
    return table(["model", "projector", "features → tokens", *(FIGURES[figure] for figure in shown)], rows) + note


def _left_out(models: Sequence[Mapping[str, Any]]) -> list[str]:
    said = dict.fromkeys(f"{part}: {why}" for model in models for part, why in model["left_out"].items())
    said |= dict.fromkeys(f"{model['name']}: {note}" for model in models for note in model["notes"])
    return [f"<ul>{''.join(f'<li>{text(one)}</li>' for one in said)}</ul>"] if said else []


def _comparison(rows: Sequence[Mapping[str, Any]]) -> str:
    made = []
    for row in rows:
        interval = row["interval_95"]
        between = MISSING if interval is None else f"{interval[0]:+.3f} … {interval[1]:+.3f}"
        cells = [
            row["second"],
            row["first"],
            f"{row['first_mean']:.3f} → {row['second_mean']:.3f}",
            f"{row['difference']:+.3f}",
            between,
            f"{row['higher']} / {row['lower']} of {row['pictures']}",
        ]
        made.append(
            f"<tr><th scope='row'>{text(FIGURES[row['figure']])}</th>{''.join(f'<td>{text(c)}</td>' for c in cells)}</tr>"
        )
    head = ("figure", "model", "against", "means", "difference", "95 % interval", "pictures higher / lower")
    return "<h2>Differences, paired by picture</h2>" + table(head, made)


def _made_of(models: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        f"<tr><th scope='row'>{text(model['name'])}</th><td>{words['tokens']:,}</td><td>{words['of_words']:,}</td>"
        f"<td>{words['num_words']:.2f}</td><td>{words['cosine'][-1]:.3f}</td>"
        f"<td>{text(', '.join(map(percent, words['explained'])))}</td></tr>"
        for model in models
        if (words := model.get("words"))
    ]
    heads = ("model", "tokens", "words to choose from", "words a token", "cosine", "explained after each")
    return ["<h2>What tokens are made of</h2>", table(heads, rows)] if rows else []


def _checks(models: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for model in models:
        check = model.get("attribution", {}).get("check", {"methods": {}})
        for method, one in check["methods"].items():
            own, error = one["difference"]["value"], one["difference"]["error"]
            cells = (
                method,
                f"{one['effect']['value']:+.3f}",
                f"{one['random']:+.3f}, spread {one['spread']:.3f}",
                f"{own:+.3f}" + ("" if error is None else f" ± {error:.3f}"),
                f"{percent(one['lost'])} / {percent(one['random_lost'])}",
                one["verdict"],
            )
            rows.append(f"<tr><th scope='row'>{text(model['name'])}</th>{''.join(f'<td>{text(c)}</td>' for c in cells)}</tr>")
    if not rows:
        return []
    note = (
        "<p>The tokens that a method attributes to a thing are taken away: how many nats the right answer about it loses, "
        "beside as many random tokens, and how often it is then not said. A map may be believed where the "
        "difference is above 0.</p>"
    )
    heads = ("model", "method", "its tokens", "random ones", "difference", "answer lost, its / random", "verdict")
    return ["<h2>Which maps of tokens may be believed</h2>", note, table(heads, rows)]


def _by_word(models: Sequence[Mapping[str, Any]]) -> list[str]:
    scored = [model for model in models if model.get("segmentation", {}).get("by_word")]
    if not scored:
        return []
    words = sorted(scored[0]["segmentation"]["by_word"].items(), key=lambda item: -item[1]["area"])
    rows = []
    for word, first in words:
        own = (model["segmentation"]["by_word"].get(word, {}).get("iou_labelled") for model in scored)
        cells = "".join(f"<td>{text(percent(value))}</td>" for value in own)
        rows.append(f"<tr><th scope='row'>{text(word)}</th><td>{text(percent(first['area']))}</td>{cells}</tr>")
    heads = ["word", "of the area", *(model["name"] for model in scored)]
    return ["<h2>Segmentation by words</h2>", unfolds("IoU of each word, in what has a name", table(heads, rows))]


def _pictures(outcome: Outcome) -> list[str]:
    models = list(outcome.close)
    looks = list(zip(*outcome.close.values(), strict=True))
    if not looks:
        return []
    parts = [
        "<h2>What each patch says</h2>",
        "<p>Point at a patch, or click it, and the tokens that read it show their words: first those they are made of, with "
        "their coefficients, then those that the language model’s head finds likeliest.</p>",
    ]
    for several in looks:
        parts.append(f"<h3>{text(several[0].name)}</h3>")
        parts += [_look(name, look) for name, look in zip(models, several, strict=True)]
    return parts


def _look(name: str, look: Close) -> str:
    words = list(dict.fromkeys(look.said))
    buttons = []
    for patch, readers in enumerate(look.readers):
        said, there = look.said[patch] if look.said else "", look.there[patch]
        style = f" style='--word:hsl({words.index(said) * 137.5 % 360:.0f} 80% 50% / .55)'" if said else ""
        right = " class='right'" if said in there else ""
        title = _patch_told(patch, look, said)
        tokens = " ".join(map(str, readers))
        buttons.append(f"<button type='button'{right} data-tokens='{tokens}' title='{text(title)}'{style}></button>")
    rows, columns = look.grid
    size = f"grid-template-rows:repeat({rows},1fr);grid-template-columns:repeat({columns},1fr)"
    seen = picture(_jpeg(look.picture), look.name)
    board = f"<div class='board'>{seen}<div class='patches' style='{size}'>{''.join(buttons)}</div></div>"
    shown = sorted({token for readers in look.readers for token in readers})
    tokens = "".join(_token(index, look.tokens[index]) for index in shown) if look.tokens else ""
    others = [index for index in range(len(look.tokens)) if index not in set(shown)]
    beside = unfolds(
        f"{len(others)} tokens that read the whole picture",
        "".join(_token(index, look.tokens[index], always=True) for index in others),
    )
    tint = (
        "<label><input type='checkbox' class='tint'> colour patches by the word of the set that they speak, framed where it is "
        "there</label>"
    )
    said = f"<div><div class='where'></div>{tokens}{beside if others else ''}</div>"
    return f"<section><h4>{text(name)}</h4>{tint if look.said else ''}<div class='look'>{board}{said}</div></section>"


def _patch_told(patch: int, look: Close, said: str) -> str:
    row, column = divmod(patch, look.grid[1])
    there = ", ".join(look.there[patch]) or "nothing that has a name"
    readers = look.readers[patch]
    words = ", ".join(word for word, weight in look.tokens[readers[0]].words if weight > 0) if readers and look.tokens else ""
    told = f"row {row + 1}, column {column + 1}: there is {there}"
    return told + (f"; it says {said}" if said else "") + (f"; its token: {words}" if words else "")


def _token(index: int, token: Token, always: bool = False) -> str:
    made_of = "".join(f"<li>{text(word)} <small>{weight:+.2f}</small></li>" for word, weight in token.words)
    lens = ", ".join(f"{text(word)} <small>{percent(likely)}</small>" for word, likely in token.lens)
    kind = " always" if always else ""
    return (
        f"<div class='token{kind}' data-token='{index}'><b>token {index + 1}</b> <small>cosine {token.cosine:.2f}, explained "
        f"{percent(token.explained)}</small><ol>{made_of}</ol><small>likeliest: {lens}</small></div>"
    )


def _jpeg(drawn: Image.Image) -> bytes:
    buffer = io.BytesIO()
    drawn.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def _plot(file: Path) -> bytes:
    # of pixels that are photographs a PNG would be ten times as large
    with Image.open(file) as drawn:
        return _jpeg(drawn.convert("RGB"))


def _made_with(told: Mapping[str, Any]) -> dict[str, Any]:
    data = told["data"]
    return {
        "command": " ".join(told.get("command", ())),
        "data": data["source"],
        "split": data["split"],
        "seed": data["seed"],
        "patch labels": data["patch_labels"] or "as the data say",
    }
