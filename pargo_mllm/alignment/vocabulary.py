"""A language model's words as its input embeddings hold them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.words import control_ids

# numbers of a table that are looked at in a wider dtype at a time: what a cache holds
PIECE = 2**19
# a row that lies closer to the mean than this, measured by its own length, is the mean up to rounding
_NOTHING = 1e-6
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# how published vocabularies name the rows they keep for later
_RESERVED = re.compile(r"[<\[]\|?[\w ]*(?:unused|reserved|placeholder|extra_id|dummy)[\w ]*\|?[>\]]", re.IGNORECASE)


@dataclass(frozen=True)
class Lengths:
    """Of the rows of a table, less their mean or not.

    Args:
        mean: fp32 ``[C]`` that is taken away; zeros where nothing is.
        norms: fp64 ``[V]``; 0 for a row of which nothing is left.
    """

    mean: torch.Tensor
    norms: torch.Tensor


@dataclass
class Vocabulary:
    """The table of input embeddings, which is not copied, and which of its rows are words.

    Args:
        embeddings: ``[V, C]`` of any floating dtype, on any device; projected tokens stand beside its rows.
        is_word: bool ``[V]``; the others are never said.
        texts: of each row; empty where there is no tokenizer.
        scale: what the model multiplies rows (and not projected tokens) by.

    Raises:
        AlignmentError: if a number of the table is not finite, or no row is a word.
    """

    embeddings: torch.Tensor
    is_word: torch.Tensor
    texts: tuple[str, ...] = ()
    scale: float = 1.0
    _lengths: dict[bool, Lengths] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.embeddings = self.embeddings.detach()
        self.is_word = self.is_word.to(self.embeddings.device)
        if not self.is_word.any():
            raise AlignmentError(f"none of the {len(self.embeddings)} rows of the embeddings is a word of the tokenizer.")
        self.lengths(False)

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
        """The rows' lengths, less the mean of all rows where ``centred``; computed once."""
        if centred not in self._lengths:
            table = self.embeddings
            mean = embedding_mean(table) if centred else torch.zeros(table.shape[1], device=table.device)
            norms = torch.cat([_norms(part, mean) for part in table.split(max(1, PIECE // table.shape[1]))])
            if not norms.isfinite().all():
                row = int((~norms.isfinite()).int().argmax())
                raise AlignmentError(
                    f"row {row} of the embeddings ({self.text(row)!r}) is not finite; use an earlier checkpoint of the model."
                )
            self._lengths[centred] = Lengths(mean, norms)
        return self._lengths[centred]


@torch.no_grad()
def embedding_mean(embeddings: torch.Tensor) -> torch.Tensor:
    """The mean of all rows of a table ``[V, C]``: fp32 ``[C]``, added up in fp64 and in the order of the rows."""
    total = torch.zeros(embeddings.shape[1], dtype=torch.float64, device=embeddings.device)
    for part in embeddings.split(max(1, PIECE // embeddings.shape[1])):
        total += part.sum(dim=0, dtype=torch.float64)
    return (total / len(embeddings)).float()


def _norms(part: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    rows = part.to(torch.float64, copy=True)
    least = _NOTHING * torch.linalg.vector_norm(rows, dim=1)
    norms = torch.linalg.vector_norm(rows.sub_(mean), dim=1)
    return norms.where((norms > least) | ~norms.isfinite(), 0.0)


def _can_be_read(name: str, text: str) -> bool:
    if _BYTE.fullmatch(name) or _RESERVED.fullmatch(name):
        return False
    shown = text.strip()
    return bool(shown) and shown.isprintable() and "\ufffd" not in shown
