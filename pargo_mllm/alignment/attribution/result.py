"""What an attribution is, and which ways there are to make one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pargo_mllm.errors import UserError

#: the methods, and what each says
METHODS = {
    "slices": "what the architecture gives each token to read first",
    "reach": "what the masks let each token know at all, after each layer",
    "jacobian": "how much each token moves with each patch: the norm of its block of the Jacobian",
    "gradient": "gradient times input: what each patch adds to each token, to first order",
    "attention": "attention over the patches, mean of heads and layers",
    "rollout": "attention carried through the layers",
}


class AttributionError(UserError):
    """An attribution that is not possible; the message names the method or the picture, says why, and what is possible."""


@dataclass(frozen=True)
class Attribution:
    """Which features (patches) each token of a picture comes from, by one method.

    Args:
        method: of :data:`METHODS`.
        shares: fp32 ``[tokens, n_v]`` on the CPU, rows sum to 1; a row of zeros for a token that no feature reaches.
        exact: whether the figures are what ``method`` names and nothing less: they follow from a mask, or are the map's own
            derivatives in full. Attention, rollout and gradient times input are exact sums too, but only hints at influence:
            False, as for the cells of the abstractors and for estimates.
        everywhere: whether they are the same for every picture.
        how: how they were computed, one phrase.
        values: fp32 ``[tokens, n_v]``, the figures that ``shares`` are made of: norms, signed products, weights, masks.
        error: fp32 ``[tokens, n_v]``, the standard error of each value where they are estimates; else None.
        by_layer: fp32 ``[layers, tokens, n_v]``, shares after each layer, where the method tells layers apart; else None.
    """

    method: str
    shares: torch.Tensor
    exact: bool
    everywhere: bool
    how: str
    values: torch.Tensor
    error: torch.Tensor | None = None
    by_layer: torch.Tensor | None = None

    def of_object(self, coverage: torch.Tensor) -> torch.Tensor:
        """How much of each token comes from a thing, ``[tokens]``, 0...1.

        Args:
            coverage: ``[n_v]``, how much of each feature's patch the thing covers, 0...1.

        Raises:
            AttributionError: for other coverage.
        """
        return self.shares @ checked_coverage(coverage, self.shares.shape[1]).to(self.shares)


def checked_coverage(coverage: torch.Tensor, features: int) -> torch.Tensor:
    """What a thing covers of each of so many features' patches, fp32 ``[n_v]``.

    Raises:
        AttributionError: for another size, and for what is no share.
    """
    coverage = torch.as_tensor(coverage).float()
    if coverage.shape != (features,) or not bool(((coverage >= 0) & (coverage <= 1)).all()):
        raise AttributionError(
            f"coverage of shape {list(coverage.shape)} must be [{features}], 0...1 for each feature of the encoder."
        )
    return coverage


def check_derivable(module: torch.nn.Module) -> None:
    """Refuse a module that was loaded in inference mode.

    Raises:
        AttributionError: if so.
    """
    if any(parameter.is_inference() for parameter in module.parameters()):
        raise AttributionError("the model was loaded in torch's inference mode and has no derivatives; load it outside of it.")


def shares_of(values: torch.Tensor) -> torch.Tensor:
    """Rows of sizes that sum to 1, fp32 on the CPU; rows of zeros stay zeros."""
    sizes = values.detach().double().abs().cpu()
    whole = sizes.sum(dim=-1, keepdim=True)
    return (sizes / whole.where(whole > 0, 1.0)).float()


def put_together(parts: list[Attribution]) -> Attribution:
    """That of a picture in tiles whose tokens are each of one tile: blocks along the diagonal."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    layers = None
    if first.by_layer is not None:
        by_layer = [part.by_layer for part in parts if part.by_layer is not None]
        layers = torch.stack([torch.block_diag(*one) for one in zip(*by_layer, strict=True)])
    errors = [part.error for part in parts if part.error is not None]
    return Attribution(
        first.method,
        torch.block_diag(*(part.shares for part in parts)),
        first.exact,
        first.everywhere,
        first.how,
        torch.block_diag(*(part.values for part in parts)),
        torch.block_diag(*errors) if errors else None,
        layers,
    )
