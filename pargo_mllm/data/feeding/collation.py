"""Micro-batches: items of examples as rows, packed or padded, with the pictures in the order in which the rows show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pargo_mllm.data.feeding.contents import count_contents
from pargo_mllm.data.feeding.packing import PADDING, PackedSequence, alone, join, model_inputs, pad, pad_packed
from pargo_mllm.data.feeding.patch_labels import PATCHES, join_patch_labels

LAYOUTS = ("shared", "documents")
VISUAL = ("pixel_values", "vision_features")


class RowCollator:
    """Makes the model's keyword arguments of items of :class:`~pargo_mllm.data.feeding.encoding.ExampleEncoder`.

    Packed or not and in either layout, the same items give the same loss.

    Args:
        pad_token_id: fills rows up on the right.
        pack: whole examples are packed into as few rows as first-fit decreasing gives. Otherwise every example is a row.
        row_length: most tokens of a row that is packed in the layout "shared", at least those of the longest example. No other
            rows have a limit.
        layout: "shared": conversations share the pictures they are about; ``attention_mask`` is bool ``[R, 1, L, L]``, for
            sdpa and eager attention.

            "documents": every conversation is a document of its own with the placeholders of its pictures, each encoded and
            projected once all the same (``picture_index``). Packed, all documents are one row without padding or mask:
            ``position_ids`` that restart tell transformers where a document begins, which is what flash attention needs; sdpa,
            eager and flex attention get a block mask from it. Not packed, every document is a row, with a 2-D mask.

        words: in every micro-batch with labels, see :func:`~pargo_mllm.data.feeding.patch_labels.join_patch_labels`.

    A micro-batch holds ``input_ids``, ``position_ids`` and ``labels`` int64 ``[R, L]``; ``pixel_values`` or
    ``vision_features`` where there is a picture, ``tile_counts`` where one has several tiles, ``picture_index`` where one is
    shown more than once; and, no argument of the model, ``contents``
    (:class:`~pargo_mllm.data.feeding.contents.BatchContents`), and ``patches``
    (:func:`~pargo_mllm.data.feeding.patch_labels.join_patch_labels`) where the items have labels of their pictures' tokens.
    """

    def __init__(
        self,
        pad_token_id: int,
        pack: bool,
        row_length: int | None = None,
        layout: str = "shared",
        words: Sequence[tuple[int, ...]] = (),
    ):
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r} is unknown; it must be one of {', '.join(map(repr, LAYOUTS))}.")
        if pack and layout == "shared" and row_length is None:
            raise ValueError("row_length is missing: packed rows of the layout 'shared' need the most tokens of a row.")
        self.pad_token_id = pad_token_id
        self.pack = pack
        self.row_length = row_length
        self.layout = layout
        self.words = words

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """The micro-batch of ``items``."""
        rows = self._rows(items)
        shown = [item for row in rows for item in row]
        if self.layout == "shared":
            sequences = [join([item["packed"] for item in row]) for row in rows]
            batch: dict[str, Any] = pad_packed(sequences, self.pad_token_id)
            times = [item["packed"].num_documents for item in shown]
        else:
            documents = [alone(item["packed"]) for item in shown]
            sequences = [document for of_one in documents for document in of_one]
            batch = self._documents(sequences)
            times = [len(of_one) for of_one in documents]
        batch |= self._pictures(shown, times)
        skipped, why = ([item[key] for item in items if key in item] for key in ("skipped", "why"))
        tiles = [count for item in items for count in item["tile_counts"].tolist()]
        return {**batch, "contents": count_contents(sequences, tiles, "vision_features" in batch, skipped, why)}

    def _rows(self, items: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        if not self.pack or self.layout == "documents":
            return [[item] for item in items]
        assert self.row_length is not None
        lengths = [len(item["packed"]) for item in items]
        longest = max(range(len(items)), key=lengths.__getitem__)
        if lengths[longest] > self.row_length:
            raise ValueError(
                f"{items[longest]['name']} has {lengths[longest]} tokens and row_length={self.row_length}; an example is never "
                "split: give the encoder a max_length of at most row_length."
            )
        return [[items[index] for index in row] for row in first_fit_decreasing(lengths, self.row_length)]

    def _documents(self, documents: list[PackedSequence]) -> dict[str, Any]:
        if self.pack:
            return model_inputs(pad([join(documents)], self.pad_token_id))
        padded = pad(documents, self.pad_token_id)
        return {**model_inputs(padded), "attention_mask": (padded.documents != PADDING).long()}

    def _pictures(self, shown: list[dict[str, Any]], times: list[int]) -> dict[str, Any]:
        """Pictures in the order of ``shown``; every item shows its own so many ``times``."""
        batch: dict[str, Any] = {}
        for name in VISUAL:
            given = [item[name] for item in shown if name in item]
            if given:
                batch[name] = torch.cat(given)
        tile_counts = torch.cat([item["tile_counts"] for item in shown])
        if (tile_counts > 1).any():
            batch["tile_counts"] = tile_counts
        index, first = [], 0
        for item, repeats in zip(shown, times, strict=True):
            pictures = range(first, first + len(item["tile_counts"]))
            index += list(pictures) * repeats
            first += len(pictures)
        if len(index) > first:
            batch["picture_index"] = torch.tensor(index)
        labelled = [item[PATCHES] for item in shown if PATCHES in item]
        if labelled:
            batch[PATCHES] = join_patch_labels(labelled, self.words)
        return batch


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of indices of ``lengths`` that add up to at most ``capacity``: longest first, each into the first row with room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        row = next((row for row, left in enumerate(room) if left >= lengths[index]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows
