"""A language model's words as its input embeddings hold them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import torch

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.rows import NOTHING
from pargo_mllm.alignment.words import control_ids

# numbers of a table that are looked at in a wider dtype at a time: what a cache holds
PIECE = 2**19
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# how published vocabularies name the rows they keep for later
_RESERVED = re.compile(r"[<\[]\|?[\w ]*(?:unused|reserved|placeholder|extra_id|dummy)[\w ]*\|?[>\]]", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Lengths:
    """Of the rows of a table, less their mean or not.

    Args:
        mean: fp32 ``[C]`` that is taken away; zeros where nothing is.
        norms: fp64 ``[V]``; 0 for a row of which nothing is left.
    """

    mean: torch.Tensor
    norms: torch.Tensor


@dataclass(eq=False)
class Vocabulary:
    """The table of input embeddings, which is not copied, and which of its rows are words.

    It may be trained on: what is known of its rows is computed again once they have changed, by torch's count of changes, which
    what is written past ``.data`` escapes.

    Args:
        embeddings: ``[V, C]`` of any floating dtype, on any device; projected tokens stand beside its rows.
        is_word: bool ``[V]``; the others are never said.
        texts: of each row; empty where there is no tokenizer.
        scale: what the model multiplies rows (and not projected tokens) by.

    Raises:
        AlignmentError: if a number of the table is not finite or beyond fp32, or no row is a word.
        ValueError: if what is said of the rows is not as many as they are.
    """

    embeddings: torch.Tensor
    is_word: torch.Tensor
    texts: tuple[str, ...] = ()
    scale: float = 1.0
    _lengths: dict[bool, tuple[int, Lengths]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.embeddings.dim() != 2 or not self.embeddings.is_floating_point() or not self.embeddings.shape[1]:
            raise ValueError(f"embeddings {list(self.embeddings.shape)} of {self.embeddings.dtype}: give floating [V, C].")
        rows = len(self.embeddings)
        if self.is_word.shape != (rows,) or self.is_word.dtype != torch.bool:
            raise ValueError(f"is_word {list(self.is_word.shape)} of {self.is_word.dtype}: give bool [{rows}], one a row.")
        if self.texts and len(self.texts) != rows:
            raise ValueError(f"{len(self.texts)} texts of {rows} rows; give one of each, or none.")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale={self.scale} must be a number above 0.")
        self.embeddings = self.embeddings.detach()
        self.is_word = self.is_word.to(self.embeddings.device)
        if not self.is_word.any():
            raise AlignmentError(f"none of the {len(self.embeddings)} rows of the embeddings is a word of the tokenizer.")
        if not self.lengths(False).norms.amax() >= torch.finfo(torch.float32).tiny and self.embeddings.any():
            raise AlignmentError("all rows of the embeddings are too short for fp32; multiply table and tokens by a number.")

    @classmethod
    def of_table(cls, embeddings: torch.Tensor) -> Vocabulary:
        """A table ``[V, C]`` whose rows are all words."""
        return cls(embeddings, torch.ones(len(embeddings), dtype=torch.bool))

    @classmethod
    def of(cls, model: Any, processor: Any) -> Vocabulary:
        """The vocabulary of a ParGo model and its processor.

        Words are the rows that the tokenizer spells by something that can be read: no control tokens, no image token, no bytes
        and no parts of a letter, no white space alone, no rows that the vocabulary keeps for later, and none behind its end.
        """
        module = model.get_input_embeddings()
        tokenizer, rows = processor.tokenizer, len(module.weight)
        texts = [""] * rows
        words = torch.zeros(rows, dtype=torch.bool)
        known = min(rows, len(tokenizer))
        names = tokenizer.convert_ids_to_tokens(list(range(known)))
        control = control_ids(tokenizer) | {model.config.image_token_id}
        spelled = tokenizer.batch_decode([[index] for index in range(known)], clean_up_tokenization_spaces=False)
        for index, (name, text) in enumerate(zip(names, spelled, strict=True)):
            texts[index] = text.strip() or name or ""
            words[index] = name is not None and index not in control and _can_be_read(name, text)
        return cls(module.weight, words, tuple(texts), float(getattr(module, "embed_scale", 1.0)))

    def text(self, index: int) -> str:
        """What a row says, without the space in front; its number where there is no tokenizer."""
        return self.texts[index] if self.texts else str(index)

    @property
    def mean(self) -> torch.Tensor:
        """Of all rows, fp32 ``[C]``."""
        return self.lengths(True).mean

    @torch.no_grad()
    def lengths(self, centred: bool) -> Lengths:
        """The rows' lengths, less the mean of all rows where ``centred``; computed once, and again where the table changed."""
        table = self.embeddings
        version = 0 if table.is_inference() else table._version
        if self._lengths.get(centred, (-1,))[0] != version:
            mean = embedding_mean(table) if centred else torch.zeros(table.shape[1], device=table.device)
            norms = torch.cat([_norms(part, mean) for part in table.split(max(1, PIECE // table.shape[1]))])
            self._check(norms)
            self._lengths[centred] = version, Lengths(mean, norms)
        return self._lengths[centred][1]

    def _check(self, norms: torch.Tensor) -> None:
        if not norms.isfinite().all():
            row = int((~norms.isfinite()).int().argmax())
            what, way = "is not finite", "use an earlier checkpoint of the model"
            if self.embeddings[row].isfinite().all():
                what, way = "is beyond fp32, in which the mean is held", "divide the table and the tokens by a number"
            raise AlignmentError(f"row {row} of the embeddings ({self.text(row)!r}) {what}; {way}.")


@torch.no_grad()
def embedding_mean(embeddings: torch.Tensor) -> torch.Tensor:
    """The mean of all rows of a table ``[V, C]``: fp32 ``[C]``, added up in fp64 and in the order of the rows."""
    total = torch.zeros(embeddings.shape[1], dtype=torch.float64, device=embeddings.device)
    for part in embeddings.split(max(1, PIECE // embeddings.shape[1])):
        total += part.sum(dim=0, dtype=torch.float64)
    return (total / len(embeddings)).float()


def _norms(part: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    rows = part.to(torch.float64, copy=True)
    least = NOTHING * torch.linalg.vector_norm(rows, dim=1)
    norms = torch.linalg.vector_norm(rows.sub_(mean), dim=1)
    norms = norms.where(norms <= torch.finfo(torch.float32).max, torch.inf)
    return norms.where((norms > least) | norms.isinf(), 0.0)


def _can_be_read(name: str, text: str) -> bool:
    if _BYTE.fullmatch(name) or _RESERVED.fullmatch(name):
        return False
    shown = text.strip()
    return bool(shown) and shown.isprintable() and "\ufffd" not in shown
