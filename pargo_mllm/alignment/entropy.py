"""How much a set of tokens holds: the von Neumann entropy of its spectrum."""

from __future__ import annotations

import torch

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.rows import rows_of, unit_rows

# tokens that differ by less, measured by their lengths, differ by the rounding of fp64
_ROUNDING = 1e-14
# numbers between this and its inverse have squares, and sums of squares
_FAR = 1e140


def von_neumann_entropy(tokens: torch.Tensor, centred: bool = False, normalised: bool = True) -> float:
    """H = -sum(λ ln λ) in nats, λ the eigenvalues of ρ = XᵀX / tr(XᵀX), of the tokens X ``[N, d]``.

    0 for tokens on one line, ln d where they look in all d directions alike, never more than ln min(N, d). Features and
    tokens of different width can be compared: what a projector keeps is the entropy behind it against that before it.

    Args:
        tokens: of any floating dtype; computed in fp64, on their device.
        centred: take the mean of the rows away (our choice: after they were brought to length 1, so that one look at the tokens
            is enough).
        normalised: bring every row to length 1 first. A row of zeros stays one.

    Raises:
        AlignmentError: for tokens that are not finite, or that leave nothing to look at: all of them zero or, centred, equal;
            for numbers whose squares fp64 does not hold, not normalised.
        ValueError: for what is no tensor ``[..., d]`` of floating numbers.
    """
    streamed = StreamedEntropy(centred, normalised)
    streamed.add(tokens)
    return streamed.value()


class StreamedEntropy:
    """:func:`von_neumann_entropy` of tokens that come in any number of pieces, as if they had come at once.

    While there are fewer tokens than dimensions the tokens themselves are kept (their Gram matrix N×N has the same spectrum),
    from then on a sum of d×d alone: the smaller of the two, and never more than d² numbers.

    Args:
        centred, normalised: as there.
    """

    def __init__(self, centred: bool = False, normalised: bool = True):
        self.centred, self.normalised = centred, normalised
        self.count = 0
        self._rows: list[torch.Tensor] = []
        # of the tokens that are kept no more: how many, their mean (0 where nothing is taken away), products of what is left
        self._summed = 0
        self._mean: torch.Tensor | None = None
        self._products: torch.Tensor | None = None
        # squares of all numbers, and the largest of these
        self._squares = self._largest = 0.0

    @torch.no_grad()
    def add(self, tokens: torch.Tensor) -> None:
        """Take in tokens ``[..., d]``.

        Raises:
            AlignmentError: if one is not finite.
            ValueError: if they are not as wide as those before, or no tensor of floating numbers.
        """
        rows = rows_of(tokens)
        if self._mean is not None and self._mean.shape != rows.shape[-1:]:
            raise ValueError(f"tokens {rows.shape[-1]} wide after tokens {len(self._mean)} wide.")
        rows = unit_rows(rows) if self.normalised else rows.to(torch.float64, copy=True)
        if self._mean is None:
            self._mean = rows.new_zeros(rows.shape[1])
        if not len(rows):
            return
        self.count += len(rows)
        self._squares += float(rows.square().sum())
        self._largest = max(self._largest, float(rows.abs().amax()))
        self._rows.append(rows)
        if self._products is not None or self.count > rows.shape[1]:
            self._sum_up(self._mean)

    def _sum_up(self, mean: torch.Tensor) -> None:
        """Tokens become products. Means are taken from each piece by itself (Chan, Golub and LeVeque 1979): taken from sums,
        large ones would leave nothing but rounding."""
        rows = torch.cat(self._rows)
        self._rows.clear()
        own = rows.mean(dim=0) if self.centred else torch.zeros_like(mean)
        rows -= own
        products, together = rows.T @ rows, self._summed + len(rows)
        if self._products is not None:
            products += self._products
        if self.centred:
            apart = own - mean
            products.addr_(apart, apart, alpha=self._summed * len(rows) / together)
        self._products, self._mean = products, mean + (own - mean) * (len(rows) / together)
        self._summed = together

    @torch.no_grad()
    def value(self) -> float:
        """The entropy of all tokens so far, in nats.

        Raises:
            AlignmentError: as :func:`von_neumann_entropy`, or if there was none.
        """
        if not self.count:
            raise AlignmentError("no token was given, so that there is no entropy: give a picture at least.")
        if not self._largest:
            raise AlignmentError(f"all {self.count} tokens are zero: they have no entropy.")
        if not 1 / _FAR < self._largest < _FAR:
            raise AlignmentError(
                f"the largest number of {self.count} tokens is {self._largest:g}, whose square fp64 does not hold; give them "
                "in another unit, or normalised=True."
            )
        matrix = self._products
        if matrix is None:
            rows = torch.cat(self._rows)
            rows = rows - rows.mean(dim=0) if self.centred else rows
            matrix = rows @ rows.T
        trace = float(matrix.trace())
        if not trace > _ROUNDING**2 * self._squares:
            raise AlignmentError(
                f"all {self.count} tokens are equal, and centred nothing is left of them: they have no entropy."
            )
        shares = torch.linalg.eigvalsh(matrix / trace).clamp(min=0)
        return max(0.0, -float(torch.xlogy(shares, shares).sum()))
