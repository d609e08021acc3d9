"""How much a set of tokens holds: the von Neumann entropy of its spectrum."""

from __future__ import annotations

import torch

from pargo_mllm.alignment.errors import AlignmentError, check_finite


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
        AlignmentError: for tokens that are not finite, or that leave nothing to look at: all of them zero or, centred, equal.
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
        self._products: torch.Tensor | None = None
        self._sum: torch.Tensor | None = None

    @torch.no_grad()
    def add(self, tokens: torch.Tensor) -> None:
        """Take in tokens ``[..., d]``.

        Raises:
            AlignmentError: if one is not finite.
            ValueError: if they are not as wide as those before.
        """
        rows = tokens.reshape(-1, tokens.shape[-1])
        if self._sum is not None and self._sum.shape != rows.shape[-1:]:
            raise ValueError(f"tokens {rows.shape[-1]} wide after tokens {len(self._sum)} wide.")
        check_finite(rows, "tokens")
        rows = rows.double()
        if self.normalised:
            # by the largest number first, for squares of tiny ones vanish
            rows = rows / rows.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
            rows = torch.nn.functional.normalize(rows, dim=-1)
        self.count += len(rows)
        self._sum = rows.sum(dim=0) if self._sum is None else self._sum + rows.sum(dim=0)
        self._rows.append(rows)
        if self._products is not None or self.count > rows.shape[1]:
            held = torch.cat(self._rows)
            products = held.T @ held
            self._products = products if self._products is None else self._products.add_(products)
            self._rows.clear()

    @torch.no_grad()
    def value(self) -> float:
        """The entropy of all tokens so far, in nats.

        Raises:
            AlignmentError: as :func:`von_neumann_entropy`, or if there was none.
        """
        if self._sum is None or not self.count:
            raise AlignmentError("no token was given, so that there is no entropy: give a picture at least.")
        mean = self._sum / self.count
        if self._products is None:
            rows = torch.cat(self._rows)
            rows = rows - mean if self.centred else rows
            matrix = rows @ rows.T
        else:
            matrix = self._products - self.count * torch.outer(mean, mean) if self.centred else self._products
        trace = float(matrix.trace())
        # what is left of equal tokens is rounding
        square = float(self._sum.square().sum()) / self.count
        if not trace > 1e-12 * square:
            rule = "equal, and centred nothing is left of them" if square else "zero"
            raise AlignmentError(f"all {self.count} tokens are {rule}: they have no entropy.")
        shares = torch.linalg.eigvalsh(matrix / trace).clamp(min=0)
        return max(0.0, -float(torch.xlogy(shares, shares).sum()))
