"""The file of a model's scores: parquet, one row a record, in the order of the data; whose they are stands in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from pargo_mllm.errors import UserError
from pargo_mllm.files import whole_file
from pargo_mllm.model_files import reason

# another number for another meaning of what stands in the file
FORMAT = 1
MINIMUM, MEAN = "minimum", "mean"
_KEY = b"pargo"
_SENTENCE = pyarrow.struct(
    [
        ("start", pyarrow.int32()),
        ("end", pyarrow.int32()),
        ("score", pyarrow.float32()),
        ("cut", pyarrow.bool_()),
    ]
)
SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("picture", pyarrow.string()),
        (MINIMUM, pyarrow.float32()),
        (MEAN, pyarrow.float32()),
        ("sentences", pyarrow.list_(_SENTENCE)),
        ("cut", pyarrow.bool_()),
        ("unjudged", pyarrow.string()),
        ("detail", pyarrow.string()),
        (f"other_{MINIMUM}", pyarrow.float32()),
        (f"other_{MEAN}", pyarrow.float32()),
    ]
)


class ScoresError(UserError):
    """A file of scores that cannot be used; the message names it."""


@dataclass(frozen=True)
class Scored:
    """What a model says of one record.

    Args:
        sentences: (start, end, score, whether it was cut) of each in the record's text.
        unjudged: why there are none; the same for all of its kind.
        detail: what is wrong with this one.
        other: scores of the same sentences beside the picture of another record, to see whether the model can judge.
    """

    id: str
    picture: str
    sentences: Sequence[tuple[int, int, float, bool]] = ()
    unjudged: str | None = None
    detail: str | None = None
    other: Sequence[float] = ()

    def row(self) -> dict[str, Any]:
        """As a row of :data:`SCHEMA`."""
        own = np.asarray([sentence[2] for sentence in self.sentences], dtype=np.float32)
        other = np.asarray(self.other, dtype=np.float32)
        return {
            "id": _printable(self.id),
            "picture": _printable(self.picture),
            MINIMUM: float(own.min()) if len(own) else None,
            MEAN: float(own.mean()) if len(own) else None,
            "sentences": [
                {"start": start, "end": end, "score": score, "cut": cut} for start, end, score, cut in self.sentences
            ],
            "cut": any(sentence[3] for sentence in self.sentences),
            "unjudged": self.unjudged,
            "detail": None if self.detail is None else _printable(self.detail),
            f"other_{MINIMUM}": float(other.min()) if len(other) else None,
            f"other_{MEAN}": float(other.mean()) if len(other) else None,
        }


@dataclass(frozen=True)
class Identity:
    """Whose scores they are, and of what: scores of another identity are never taken for these.

    Args:
        model: digest of weights, configurations, tokenizer and image processor.
        measure, dtype, language: how it was computed.
        data: digest of the records.
    """

    model: str
    kind: str
    measure: str
    dtype: str
    language: str
    data: str

    def differs(self, other: Any) -> list[str]:
        """What is another in what a file says."""
        told = other if isinstance(other, dict) else {}
        return [name for name, value in asdict(self).items() if told.get(name) != value]


@dataclass(frozen=True)
class Scores:
    """A file's numbers, of all records; NaN where there is none.

    Args:
        about: what the file says of itself.
        numbers: by column of :data:`SCHEMA` that holds some, [records].
        unjudged: reasons, None for a record that was judged.
        cut: whether a sentence was cut.
    """

    file: Path
    about: dict[str, Any]
    numbers: dict[str, np.ndarray]
    unjudged: np.ndarray
    cut: np.ndarray

    @property
    def judged(self) -> np.ndarray:
        """Which records have a score."""
        return ~np.isnan(self.numbers[MINIMUM])

    def in_models_terms(self, score: float) -> str:
        """A score as a message shows it: a probability, or a cosine with the logit that the model makes of it."""
        if self.about["identity"]["measure"] == "match":
            return f"probability {score:.4f}"
        scale, bias = self.about["scale"]
        return f"cosine {score:.4f}" + (f" (logit {score * scale + bias:.2f})" if (scale, bias) != (1, 0) else "")


def write_piece(rows: Iterable[Scored], scale: tuple[float, float], file: Path) -> None:
    """The scores of a piece of the records, with the scale and bias of the model's logits."""
    about = json.dumps({"scale": scale}).encode()
    table = pyarrow.Table.from_pylist([row.row() for row in rows], SCHEMA.with_metadata({_KEY: about}))
    with whole_file(file) as aside:
        parquet.write_table(table, aside)


def join(pieces: Sequence[Path], file: Path, about: dict[str, Any]) -> None:
    """The scores of all pieces in one file, a piece a row group."""
    scale = json.loads(parquet.read_schema(pieces[0]).metadata[_KEY])["scale"]
    told = {"format": FORMAT, "scale": scale, **about}
    schema = SCHEMA.with_metadata({_KEY: json.dumps(told, sort_keys=True).encode()})
    with whole_file(file) as aside, parquet.ParquetWriter(aside, schema) as joined:
        for piece in pieces:
            joined.write_table(parquet.read_table(piece, schema=SCHEMA).replace_schema_metadata(schema.metadata))


def about_of(file: Path) -> dict[str, Any]:
    """What a file of scores says of itself.

    Raises:
        ScoresError: if it is none.
    """
    try:
        schema = parquet.read_schema(file)
        about = json.loads((schema.metadata or {}).get(_KEY, b""))
        if not isinstance(about, dict) or about.get("format") != FORMAT or schema.names != SCHEMA.names:
            raise ValueError("it is of another form")
        if not isinstance(about["identity"], dict) or len(about["scale"]) != 2:
            raise ValueError("it does not say whose scores it holds")
        return about
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise ScoresError(f"{file} holds no scores of pargo filter ({reason(error)}); remove it.") from error


def read_scores(file: Path, count: int) -> Scores:
    """A file's numbers.

    Raises:
        ScoresError: if it is damaged, or does not hold those of ``count`` records.
    """
    about = about_of(file)
    try:
        table = parquet.read_table(file, columns=[name for name in SCHEMA.names if name not in ("id", "picture", "sentences")])
    except (OSError, pyarrow.ArrowException) as error:
        raise ScoresError(f"{file} cannot be read: {reason(error)}; remove it, and it is computed again.") from error
    if len(table) != count:
        raise ScoresError(f"{file} holds scores of {len(table):,} records, and there are {count:,}; remove it.")
    names = (MINIMUM, MEAN, f"other_{MINIMUM}", f"other_{MEAN}")
    numbers = {name: table[name].cast("float64").to_numpy(zero_copy_only=False).astype(np.float64) for name in names}
    return Scores(
        file, about, numbers, np.array(table["unjudged"].to_pylist(), dtype=object), np.array(table["cut"].to_pylist())
    )


def tried_pairs(pieces: Sequence[Path], by: str) -> tuple[np.ndarray, np.ndarray]:
    """Of all texts of some pieces that were tried beside another picture, the scores beside their own and beside that one."""
    columns = [by, f"other_{by}"]
    table = pyarrow.concat_tables(parquet.read_table(piece, columns=columns) for piece in pieces).drop_null()
    return table[by].to_numpy(), table[f"other_{by}"].to_numpy()


def rows_of(file: Path) -> Iterator[dict[str, Any]]:
    """All rows, one at a time."""
    with parquet.ParquetFile(file) as opened:
        for batch in opened.iter_batches(batch_size=512):
            yield from batch.to_pylist()


def _printable(text: str) -> str:
    """Without halves of characters, which parquet does not hold."""
    return text.encode("utf-8", "backslashreplace").decode()
