"""A filtering from beginning to end."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pargo_mllm.data.preparation.run import LIST
from pargo_mllm.data.sources.shards import ABOUT
from pargo_mllm.errors import UserError
from pargo_mllm.filtering.choosing import THRESHOLD, Choice, Rule, choose, rules_of
from pargo_mllm.filtering.discernment import EARLY, Discernment, area, discern
from pargo_mllm.filtering.laid import Laid
from pargo_mllm.filtering.laying import DROPPED, IMAGES, emptied, lay_kept, replaced, write_about, write_dropped
from pargo_mllm.filtering.models import MATCH, RANGES, find_folder, is_hub_name, look_at
from pargo_mllm.filtering.page import can_draw, draw_histogram, write_filter_page
from pargo_mllm.filtering.records import Records, ShardRecords, open_records
from pargo_mllm.filtering.scores import MINIMUM, Identity, Scores, ScoresError, about_of, read_scores, tried_pairs
from pargo_mllm.filtering.scoring import Job, score
from pargo_mllm.filtering.sentences import check_language
from pargo_mllm.jobs import Engine, WorkFolder
from pargo_mllm.model_files import folder_digest, read_object
from pargo_mllm.reports.page import check_page

JOB = "filter"


class FilterError(UserError):
    """What keeps pairs from being filtered; the message says what, and the way out."""


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    Args:
        models: folders, or names on a hub.
        given: see :func:`pargo_mllm.filtering.choosing.rules_of`; empty for the scores alone.
        by: the score of a record: ``minimum`` or ``mean`` of its sentences'.
        measure: of BLIP's kind, :data:`pargo_mllm.filtering.models.MATCH` or ``COSINE``.
        keep_unjudged: keep records that no model can judge: without a picture, or with several.
        even_so: drop pairs even by a model that cannot judge.
        copy: copy pictures even where hard links can be made.
    """

    data: str
    out: Path
    models: tuple[str, ...]
    given: tuple[tuple[str, str | None, float], ...] = ()
    by: str = MINIMUM
    image_root: Path | None = None
    measure: str | None = None
    language: str = "en"
    batch: int = 32
    device: str = "cpu"
    dtype: str = "float32"
    keep_unjudged: bool = True
    even_so: bool = False
    copy: bool = False
    html: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of it.

    Args:
        about: what :file:`about.json` says; of the scores alone, what it would say of the models.
        notes: what a person should know beside it.
    """

    about: dict[str, Any]
    notes: list[str]


def filter_pairs(settings: Settings, engine: Engine) -> Outcome:
    """Score the pairs with every model, unless their scores are there, and keep those that fit.

    Raises:
        UserError: for data or models that cannot be used, a model that cannot judge, a folder that holds something else.
    """
    check_language(settings.language)
    if settings.html is not None:
        _check_html(settings.html, settings.out)
    before = _said_before(Path(settings.data))
    names = _names(settings.models)
    rules = rules_of(list(names), settings.given) if settings.given else None
    _check_out(settings, names)
    records = open_records(settings.data, settings.image_root)
    if not len(records):
        raise FilterError(f"{settings.data} holds no record.")
    _check_same_data(settings, records)
    work_folder = WorkFolder(settings.out, JOB, {"data": records.content})
    with work_folder.held() as work:
        notes: list[str] = []
        scores = {name: _scored(name, source, rules, settings, records, engine, work, notes) for name, source in names.items()}
        discernments = {name: discern(scored, settings.by) for name, scored in scores.items()}
        # what a preparation said of its records is said again of those that are kept
        told_before = {} if rules is None else before
        outcome = Outcome({**told_before, **_about(settings, records, scores, discernments)}, notes)
        choice = None
        if rules is not None:
            _refuse_unjudged(scores)
            _refuse(discernments, settings.even_so, notes)
            choice = choose(scores, rules, settings.by, settings.keep_unjudged)
            choice = _keep(settings, records, scores, rules, choice, outcome, work)
        else:
            notes += [f"{name} {found.told()}" for name, found in discernments.items()]
            drawn = emptied(work / "drawn")
            _draw(settings, scores, None, drawn)
            Laid(settings.out).replace(drawn, alone=False)
        _show(settings, records, scores, discernments, choice, outcome)
        if choice is not None:
            write_about(settings.out, outcome.about)
        work_folder.remove()
    return outcome


def _names(sources: Sequence[str]) -> dict[str, str]:
    """Each model's name in files and messages: the last of its path."""
    names: dict[str, str] = {}
    for source in sources:
        path = Path(source)
        name = path.resolve().name if path.name in ("", "..") else path.name
        if name in names:
            raise FilterError(
                f"--model {names[name]} and --model {source} would both be called {name!r}; give one by a link of another name."
            )
        names[name] = source
    return names


def _check_out(settings: Settings, names: Iterable[str]) -> None:
    """Refuse a folder that the data lie in, or that lies in them, or that is not this command's."""
    out, data = settings.out, Path(settings.data)
    within = out.resolve()
    if data.exists():
        # of a list nothing is read but what it names
        folders = [data if data.is_dir() else data.parent]
        folders += [path for path in (settings.image_root, data.parent / IMAGES) if path is not None and path.is_dir()]
        for folder in folders:
            if folder.resolve().is_relative_to(within):
                raise FilterError(f"--out {out} holds the data themselves, {folder}; give another folder.")
        around = data if data.is_dir() else data.parent / IMAGES
        if around.is_dir() and within.is_relative_to(around.resolve()):
            raise FilterError(f"--out {out} lies in the data, {around}; give a folder outside.")
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise FilterError(f"--out {out} is no folder.")
    try:
        ours = WorkFolder.is_begun(out, JOB) or any(map(about_of, out.glob("scores-*.parquet")))
    except OSError as error:
        raise FilterError(f"--out {out} cannot be read: {error.strerror}.") from error
    about = _about_of_out(out)
    if os.path.lexists(out / ABOUT) and about is None:
        ours = False
    if not ours and about is None:
        raise FilterError(f"--out {out} holds something else; give an absent or empty folder, or one of pargo filter.")
    laid = Laid(out)
    for name in (LIST, DROPPED, *(map(_histogram, names) if can_draw() else ())):
        laid.check(name)


def _check_html(html: Path, out: Path) -> None:
    """Refuse to write the page over something else, or under a name that is used in ``out``."""
    check_page(html)
    file, out = html.resolve(), out.resolve()
    if file == out or (file.is_relative_to(out) and (file.parent != out or file.suffix.lower() not in (".html", ".htm"))):
        raise FilterError(f"--html {html} is a name that may be used in {out}; call it {out.name}.html there, or elsewhere.")


def _about_of_out(out: Path) -> dict[str, Any] | None:
    """What pargo filter said of what it kept there; None where it did not."""
    try:
        filtered = read_object(out / ABOUT, FilterError)["filter"]
        return filtered if isinstance(filtered["models"], list) and isinstance(filtered["content"], str) else None
    except (FilterError, KeyError, TypeError, OSError):
        return None


def _check_same_data(settings: Settings, records: Records) -> None:
    """Refuse a folder that holds scores, or a choice, of other data: by whichever model they were scored."""
    for file in sorted(settings.out.glob("scores-*.parquet")):
        if about_of(file)["identity"].get("data") != records.content:
            raise ScoresError(f"{file} holds scores of other data; remove it, or give another --out.")
    about = _about_of_out(settings.out)
    if about is not None and about["content"] != records.content:
        raise FilterError(
            f"{settings.out} holds what was kept of other data, or of another state of these; remove it, or give another --out."
        )


def _scored(
    name: str,
    source: str,
    rules: Mapping[str, Rule] | None,
    settings: Settings,
    records: Records,
    engine: Engine,
    work: Path,
    notes: list[str],
) -> Scores:
    """A model's scores: those that are there, or new ones."""
    file = settings.out / f"scores-{name}.parquet"
    there = about_of(file) if file.exists() else None
    if there is not None and not Path(source).is_dir() and not is_hub_name(source):
        # no other model lies there, so none can be meant
        notes.append(f"{name}: {source} is not there; its scores in {file} are used")
        measure = there["identity"].get("measure")
        if settings.measure not in (None, measure):
            raise ScoresError(f"{file} holds scores of another measure, {measure}; leave --measure out.")
        _check_threshold(name, rules, str(measure))
        return read_scores(file, len(records))
    folder = find_folder(source)
    opened = look_at(folder, settings.measure)
    _check_threshold(name, rules, opened.measure)
    identity = Identity(folder_digest(folder), opened.kind, opened.measure, settings.dtype, settings.language, records.content)
    if there is not None:
        if differs := identity.differs(there["identity"]):
            raise ScoresError(
                f"{file} holds scores of another {', '.join(differs)}; remove it to score anew, or give another --out."
            )
        return read_scores(file, len(records))
    pieces = work / f"{file.stem}-{identity.model[:12]}-{opened.measure}-{settings.dtype}-{settings.language}"
    job = Job(settings.data, settings.image_root, opened, identity, settings.device, settings.batch, pieces)
    early = bool(settings.given) and not settings.even_so
    score(job, len(records), engine, file, {"source": source}, _Watch(name, settings.by) if early else lambda done: None)
    shutil.rmtree(pieces)
    return read_scores(file, len(records))


def _check_threshold(name: str, rules: Mapping[str, Rule] | None, measure: str) -> None:
    """Refuse a threshold that no score of the measure can be on either side of."""
    rule = None if rules is None else rules[name]
    low, high = RANGES[measure]
    if rule is not None and rule.kind == THRESHOLD and not low <= rule.value <= high:
        what = "a probability" if measure == MATCH else "a cosine"
        raise FilterError(f"--threshold {rule.value:g}: {name} gives {what}, which is from {low:g} to {high:g}.")


class _Watch:
    """Ends the work where the first pieces show already that a model cannot judge."""

    def __init__(self, name: str, by: str):
        self.name, self.by, self._decided = name, by, False

    def __call__(self, done: Sequence[Path]) -> None:
        if self._decided:
            return
        pairs = tried_pairs(done, self.by)
        if len(pairs[0]) < EARLY:
            return
        self._decided = True
        found = area(*pairs)
        if found.is_blind:
            raise FilterError(
                f"nothing is dropped: {self.name} {found.told()}. These are the first records; their scores are kept, and "
                "--even-so goes on nevertheless."
            )


def _refuse_unjudged(scores: Mapping[str, Scores]) -> None:
    """Refuse data of which no record can be judged: there is nothing to choose."""
    for scored in scores.values():
        if not scored.judged.any():
            why = "".join(f"; {count:,}: {reason}" for reason, count in sorted(Counter(scored.unjudged).items()))
            raise FilterError(f"none of the records can be judged{why}.")


def _refuse(discernments: Mapping[str, Discernment], even_so: bool, notes: list[str]) -> None:
    """Refuse to drop pairs by a model that cannot tell them apart."""
    notes += [f"{name} {found.told()}" for name, found in discernments.items()]
    blind = [f"{name} {found.told()}" for name, found in discernments.items() if not found.judges]
    if blind and not even_so:
        raise FilterError(
            f"nothing is dropped: {'; '.join(blind)}. The scores are kept; --even-so drops pairs by them nevertheless."
        )


def _keep(
    settings: Settings,
    records: Records,
    scores: Mapping[str, Scores],
    rules: Mapping[str, Rule],
    choice: Choice,
    outcome: Outcome,
    work: Path,
) -> Choice:
    """Lay what is kept, and say in ``outcome`` what it is; a choice of what was there to be kept."""
    laid = Laid(settings.out)
    with replaced(laid, work) as folder:
        lost = lay_kept(records, choice, folder, settings.copy, laid)
        choice = choice.without(lost)
        write_dropped(records, scores, choice, lost, settings.by, folder / DROPPED)
        _draw(settings, scores, choice, folder)
    filtered = outcome.about["filter"]
    for model in filtered["models"]:
        name = model["name"]
        threshold = choice.thresholds[name]
        model["rule"] = {rules[name].kind: rules[name].value}
        model["threshold"] = threshold
        model["threshold_told"] = scores[name].in_models_terms(threshold)
        model["below"] = int(choice.below[name].sum())
    filtered["unjudged_kept"] = dict(sorted(choice.unjudged.items()))
    kept = [number for number in range(len(records)) if choice.kept[number]]
    outcome.about.update(
        {
            "records_in": "shards" if isinstance(records, ShardRecords) else LIST,
            "entries": records.entries,
            "records": len(kept),
            "skipped": dict(Counter(records.skipped) + Counter(choice.dropped())),
        }
    )
    return choice


def _said_before(data: Path) -> dict[str, Any]:
    """What the data say of themselves: set, licence…; not what will be another."""
    beside = (data if data.is_dir() else data.parent) / ABOUT
    said = read_object(beside, FilterError) if beside.is_file() else {}
    return {key: value for key, value in said.items() if key != "mean_characters"}


def _about(
    settings: Settings, records: Records, scores: Mapping[str, Scores], discernments: Mapping[str, Discernment]
) -> dict[str, Any]:
    """Who judged the records."""
    models = [
        {
            "name": name,
            "source": scored.about["source"],
            **scored.about["identity"],
            "scores": scored.file.name,
            "judged": int(scored.judged.sum()),
            "with_a_sentence_cut": int(scored.cut.sum()),
            "auc": None if not found.pairs else round(found.auc, 4),
            "auc_95": None if not found.pairs else [round(found.low, 4), round(found.high, 4)],
            "auc_pairs": found.pairs,
            "judges": found.judges,
        }
        for (name, scored), found in zip(scores.items(), discernments.values(), strict=True)
    ]
    return {"filter": {"data": settings.data, "content": records.content, "by": settings.by, "models": models}}


def _draw(settings: Settings, scores: Mapping[str, Scores], choice: Choice | None, folder: Path) -> None:
    for name, scored in scores.items() if can_draw() else ():
        threshold = None if choice is None else choice.thresholds[name]
        draw_histogram(scored, settings.by, threshold, folder / _histogram(name))


def _histogram(name: str) -> str:
    return f"histogram-{name}.png"


def _show(
    settings: Settings,
    records: Records,
    scores: Mapping[str, Scores],
    discernments: Mapping[str, Discernment],
    choice: Choice | None,
    outcome: Outcome,
) -> None:
    histograms = {name: settings.out / _histogram(name) for name in scores} if can_draw() else {}
    if not histograms:
        outcome.notes.append("histograms are drawn by matplotlib: pip install 'pargo[demo]'")
    if settings.html is None:
        return
    summary = {"data": settings.data, "records": f"{len(records):,}"}
    if choice is not None:
        summary["kept"] = f"{int(choice.kept.sum()):,}"
        summary |= {f"dropped, {reason}": f"{count:,}" for reason, count in choice.dropped().items()}
        summary |= {f"kept unjudged, {reason}": f"{count:,}" for reason, count in sorted(choice.unjudged.items())}
    try:
        settings.html.parent.mkdir(parents=True, exist_ok=True)
        write_filter_page(settings.html, records, scores, discernments, choice, settings.by, histograms, summary)
    except OSError as error:
        raise FilterError(f"--html {settings.html} cannot be written: {error.strerror or error}.") from error


def told(outcome: Outcome, out: str | os.PathLike) -> str:
    """What a person reads."""
    about = outcome.about
    lines = []
    if "records" in about:
        lines.append(f"of {about['entries']:,} records {about['records']:,} are kept, in {out}")
        lines += [f"dropped {count:,}: {reason}" for reason, count in about["skipped"].items()]
        lines += [f"kept unjudged {count:,}: {reason}" for reason, count in about["filter"]["unjudged_kept"].items()]
        lines += [
            f"{model['name']}: threshold {model['threshold_told']} ({about['filter']['by']}), {model['below']:,} below"
            for model in about["filter"]["models"]
        ]
    else:
        lines += [
            f"{model['name']}: {model['judged']:,} records judged, in {out}/{model['scores']}"
            for model in about["filter"]["models"]
        ]
    lines += [
        f"{model['name']}: {model['with_a_sentence_cut']:,} records with a sentence longer than the model reads, which was cut"
        for model in about["filter"]["models"]
        if model["with_a_sentence_cut"]
    ]
    return "\n".join([*lines, *outcome.notes])


def as_json(outcome: Outcome) -> str:
    """What a program reads: one object."""
    return json.dumps({**outcome.about, "notes": outcome.notes})
