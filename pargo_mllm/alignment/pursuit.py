"""Which words a token speaks: matching pursuit over a language model's embeddings.

Mallat and Zhang's pursuit (1993): of the residual, which begins as the token, the word that lies closest to its direction is
taken away, again and again. Where others fit all concepts at once (SpLiCE, arXiv 2402.10376), which takes words × words, this
looks at a vocabulary once a word, in pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.nearest import WordSearch
from pargo_mllm.alignment.rows import rows_of
from pargo_mllm.alignment.vocabulary import Vocabulary

# what is left of a token, by its length, when it is said in full: less is the rounding of fp32
SAID = 1e-6
# numbers of a batch of tokens, and tokens of it
_BATCH, _TOKENS = 2**25, 1024


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Words of T tokens, K steps each, and how much they say of them. Where nothing was left to say: no word, nothing added.

    Args:
        words: int64 ``[T, K]``, rows of the vocabulary in the order they were found; -1: none.
        coefficients: fp32 ``[T, K]``, of the words' directions (rows of length 1, centred if asked for).
        cosine: fp32 ``[T, K]``, of the token and what the words so far add up to; 0 for a token of zeros.
        explained: fp32 ``[T, K]``, the share of the token's squared length that the words so far explain.
    """

    words: torch.Tensor
    coefficients: torch.Tensor
    cosine: torch.Tensor
    explained: torch.Tensor

    @property
    def num_words(self) -> torch.Tensor:
        """How many different words each token was given, what SpLiCE calls its L0: int64 ``[T]``."""
        ordered = self.words.sort(dim=1).values
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        return (first & (ordered >= 0)).sum(dim=1)


@torch.no_grad()
def matching_pursuit(
    tokens: torch.Tensor,
    vocabulary: Vocabulary,
    num_words: int = 5,
    *,
    non_negative: bool = False,
    centred: bool = True,
    token_mean: torch.Tensor | None = None,
    orthogonal: bool = False,
    chunk: int | None = None,
) -> Decomposition:
    """Say each token by ``num_words`` words.

    Of words that fit equally well, up to nine digits, the first row is taken, so that neither the order of a sum nor ``chunk``
    decides. The vocabulary is looked at in pieces: beside the table half a gigabyte is needed.

    Args:
        tokens: ``[T, C]`` of any floating dtype; moved to the vocabulary's device, the answer back to theirs.
        vocabulary: whose words may be said.
        num_words: K.
        non_negative: words may only be added, as in SpLiCE; else also taken away, where the coefficient is negative.
        centred: take the mean of the vocabulary from words and tokens first: all words share it, and it says nothing.
        token_mean: ``[C]``, take this from the tokens instead, for tokens that share something of their own (SpLiCE's gap
            between modalities, each centred by itself).
        orthogonal: fit all coefficients again after each word (orthogonal matching pursuit): no word is said twice, and
            ``coefficients`` are those of the last fit. It ends where no word reaches what is left but by rounding.
        chunk: rows of the vocabulary to look at together; by default as many as are fast.

    Raises:
        AlignmentError: for tokens or a ``token_mean`` that are not finite, or beyond what fp32 holds.
        ValueError: for tokens of another width than the vocabulary, numbers of words or rows that are none, or ``orthogonal``
            with ``non_negative``, whose fit is none that this does.
    """
    table = vocabulary.embeddings
    rows_of(tokens)
    if tokens.dim() != 2 or tokens.shape[1] != table.shape[1]:
        raise ValueError(
            f"tokens {list(tokens.shape)} do not fit a vocabulary {table.shape[1]} wide; give [T, {table.shape[1]}]."
        )
    for name, value in (("num_words", num_words), ("chunk", 1 if chunk is None else chunk)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value} must be a whole number, at least 1.")
    if orthogonal and non_negative:
        raise ValueError("orthogonal fits coefficients of any sign: give orthogonal or non_negative.")
    if token_mean is not None and (rows_of(token_mean, "token_mean").shape[1:] != table.shape[1:] or token_mean.dim() != 1):
        raise ValueError(f"token_mean {list(token_mean.shape)} must be one of all tokens, [{table.shape[1]}].")
    search = WordSearch(vocabulary, centred, chunk)
    mean = search.mean if token_mean is None else token_mean.to(table.device).double() / vocabulary.scale
    kept = table.shape[1] + (table.shape[1] + num_words) * num_words * orthogonal
    size = max(1, min(_TOKENS, _BATCH // kept))
    parts = []
    for batch in tokens.split(size):
        values = batch.to(table.device).double() / vocabulary.scale - mean
        parts.append(_pursue(values, search, num_words, non_negative, orthogonal))
    if not parts:
        parts.append(_pursue(table.new_zeros(0, table.shape[1], dtype=torch.float64), search, num_words, False, False))
    return Decomposition(*(torch.cat(part).to(tokens.device) for part in zip(*parts, strict=True)))


def _pursue(
    values: torch.Tensor, search: WordSearch, num_words: int, non_negative: bool, orthogonal: bool
) -> tuple[torch.Tensor, ...]:
    count, device = len(values), values.device
    words = torch.full((count, num_words), -1, device=device)
    coefficients = torch.zeros(count, num_words, dtype=torch.float64, device=device)
    cosine, explained = torch.zeros_like(coefficients), torch.zeros_like(coefficients)
    # squares of very long and very short ones are no numbers
    largest = values.abs().amax(dim=1)
    if count and not largest.amax() <= torch.finfo(torch.float32).max:
        raise AlignmentError(f"tokens as large as {float(largest.amax()):g} are beyond fp32, in which their words are told.")
    unit = largest.where(largest > 0, 1.0)
    values = values / unit[:, None]
    lengths = torch.linalg.vector_norm(values, dim=1)
    residual = values.clone()
    left = lengths.clone()
    # of orthogonal pursuit: an orthonormal basis of the words so far, and the words in it
    basis = values.new_zeros(count, num_words if orthogonal else 0, values.shape[1])
    in_basis = values.new_zeros(count, *(2 * [num_words if orthogonal else 0]))
    in_basis.diagonal(dim1=1, dim2=2).fill_(1)
    along = values.new_zeros(count, num_words)
    for step in range(num_words):
        goes_on = ((left > SAID * lengths) & (lengths > 0)).nonzero()[:, 0]
        if len(goes_on):
            found, fits = search.nearest(residual[goes_on] / left[goes_on, None], non_negative)
            # a word that hardly leaves those before it would be taken times the inverse of what rounding left of it
            says = (found >= 0) & (fits.abs() > SAID) if orthogonal else found >= 0
            goes_on, found, fits = goes_on[says], found[says], fits[says]
            words[goes_on, step] = found
            directions = search.directions(found)
            if orthogonal:
                spanned = basis[goes_on, :step]
                in_basis[goes_on, :step, step] = torch.einsum("tkc,tc->tk", spanned, directions)
                rest = directions - torch.einsum("tk,tkc->tc", in_basis[goes_on, :step, step], spanned)
                size = torch.linalg.vector_norm(rest, dim=1)
                directions = rest / size[:, None]
                in_basis[goes_on, step, step] = size
                basis[goes_on, step] = directions
                along[goes_on, step] = torch.einsum("tc,tc->t", residual[goes_on], directions)
                residual[goes_on] -= along[goes_on, step, None] * directions
            else:
                coefficients[goes_on, step] = fits * left[goes_on]
                residual[goes_on] -= coefficients[goes_on, step, None] * directions
            left = torch.linalg.vector_norm(residual, dim=1)
        said = values - residual
        lengths_said = torch.linalg.vector_norm(said, dim=1)
        told = (lengths > 0) & (lengths_said > 0)
        product = (said * values).sum(dim=1) / (lengths * lengths_said).where(told, 1.0)
        cosine[:, step] = product.where(told, 0.0).clamp(-1, 1)
        # a word that says next to nothing may lengthen what is left by rounding
        explained[:, step] = 1 - (left / lengths.where(lengths > 0, 1.0)).square().clamp(max=1) if count else 0
        explained[:, step] = explained[:, step].where(lengths > 0, 0.0)
    if orthogonal:
        coefficients = torch.linalg.solve_triangular(in_basis, along[..., None], upper=True)[..., 0]
    return words, (coefficients * unit[:, None]).float(), cosine.float(), explained.float()
