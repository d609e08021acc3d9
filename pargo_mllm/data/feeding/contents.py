"""What a batch holds, counted where it is made: what throughput and messages are about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pargo_mllm.data.feeding.packing import IGNORED, SHARED, PackedSequence


@dataclass(frozen=True)
class BatchContents:
    """Counts of a batch without its padding.

    Args:
        tokens: of all rows.
        pairs: (token, token that it sees).
        labels: tokens with a loss.
        pictures: how many pictures of how many tiles: ``{tiles: pictures}``.
        encoded: whether they come as features, which took no operations.
        skipped: names of examples that could not be used, with the reasons.
        why: of these, the kind of the reason, which is counted.
    """

    tokens: int
    pairs: int
    labels: int
    pictures: dict[int, int]
    encoded: bool = False
    skipped: tuple[tuple[str, str], ...] = ()
    why: tuple[str, ...] = ()

    @property
    def num_pictures(self) -> int:
        """All pictures."""
        return sum(self.pictures.values())


def count_contents(
    rows: Sequence[PackedSequence],
    tile_counts: Sequence[int],
    encoded: bool = False,
    skipped: Sequence[tuple[str, str]] = (),
    why: Sequence[str] = (),
) -> BatchContents:
    """Count ``rows`` (sequences of one or more documents) and pictures of ``tile_counts`` tiles each."""
    return BatchContents(
        tokens=sum(len(row) for row in rows),
        pairs=sum(visible_pairs(row) for row in rows),
        labels=sum(int((row.labels != IGNORED).sum()) for row in rows),
        pictures=dict(Counter(tile_counts)),
        encoded=encoded,
        skipped=tuple(skipped),
        why=tuple(why),
    )


def visible_pairs(row: PackedSequence) -> int:
    """Pairs (token, token that it sees): every token sees its document's shared prefix and its own conversation so far."""
    pairs = 0
    for document in range(row.num_documents):
        lengths = row.segments[row.documents == document].bincount().tolist()
        prefix = lengths[SHARED]
        pairs += prefix * (prefix + 1) // 2
        pairs += sum(length * prefix + length * (length + 1) // 2 for length in lengths[SHARED + 1 :])
    return pairs
