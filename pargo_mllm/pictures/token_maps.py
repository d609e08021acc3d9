"""What the tokens of a ParGo projector look at on one picture, as arrays: the material of the attention pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from pargo_kernels.intervals import interval_mask, partial_bounds
from pargo_mllm.data.pictures import load_picture
from pargo_mllm.projectors import ParGoProjector
from pargo_mllm.projectors.rollout import reach, rollout

# pixels along the longer side of what is shown, about
SHOWN_SIDE = 448


@dataclass(frozen=True)
class TokenMaps:
    """Attention of one picture, averaged over heads.

    Args:
        picture: uint8 ``[H, W, 3]``, framed as the encoder sees it.
        grid: rows and columns of patches; ``n_v`` patches in raster order.
        num_partial: ``n_p``; the remaining tokens are global.
        cross: ``[layers, n_p + n_g, n_v]``, weights of every token over the patches.
        among_partial: ``[layers, n_p, n_p]``, weights of the partial tokens over each other; None where they do not attend.
        order: which patch comes where before slices are cut, int ``[n_v]``; None for raster order.
        windows, edge: how many partial tokens a partial token sees in each layer, and what happens at the borders.
    """

    picture: np.ndarray
    grid: tuple[int, int]
    num_partial: int
    cross: np.ndarray
    among_partial: np.ndarray | None
    windows: list[int]
    edge: str = "clamp"
    order: np.ndarray | None = None

    @property
    def num_layers(self) -> int:
        """Layers of the projector."""
        return len(self.cross)

    @property
    def num_global(self) -> int:
        """``n_g``."""
        return self.cross.shape[1] - self.num_partial

    def owners(self) -> np.ndarray:
        """The partial token that owns each patch, int ``[n_v]`` (Eq. 1)."""
        return self._slices().argmax(axis=0)

    def reach(self) -> np.ndarray:
        """The patches that can have influenced each partial token after each layer, bool ``[layers, n_p, n_v]``
        (:func:`pargo_mllm.projectors.rollout.reach`).
        """
        return reach(torch.from_numpy(self._slices()), self.windows, self.edge, self.among_partial is not None).numpy()

    def knowledge(self) -> np.ndarray:
        """Where what a partial token knows comes from, ``[layers, n_p, n_v]``: shares of the patches, rows sum to 1.

        Attention rollout (Abnar and Zuidema, 2020): what a token has and what attention adds weigh the same.
        """
        among = None if self.among_partial is None else torch.from_numpy(self.among_partial)
        return rollout(torch.from_numpy(self.cross[:, : self.num_partial]), among).numpy()

    def _slices(self) -> np.ndarray:
        patches = self.grid[0] * self.grid[1]
        extra = self.cross.shape[2] - patches
        # a class token in front belongs to a slice but is no part of the picture
        slices = interval_mask(partial_bounds(self.num_partial, patches + extra), patches + extra).numpy()[:, extra:]
        return slices if self.order is None else slices[:, self.order.argsort()]


@torch.no_grad()
def token_maps(model, processor, picture: Image.Image, device: str | torch.device | None = None) -> TokenMaps:
    """Look at ``picture`` and keep the attention of the projector.

    Args:
        model: a ParGoForConditionalGeneration or ParGoModel whose projector attends ("pargo" or "qformer").
        device: where the model is moved to first; it stays where it is when None.

    Raises:
        ValueError: if the projector has no attention to show.
    """
    base = getattr(model, "model", model)
    if not isinstance(base.projector, ParGoProjector):
        raise ValueError(
            f"projector_type={base.projector.config.projector_type!r} has no attention to show here. Use a model with a "
            "'pargo' or 'qformer' projector."
        )
    if device is not None:
        model.to(device)
    was_training = model.training
    model.eval()
    picture = load_picture(picture)
    pixels = processor.image_processor(picture, return_tensors="pt")["pixel_values"].to(base.device)
    self_weights: list[torch.Tensor] = []
    cross_weights: list[torch.Tensor] = []
    base.projector.last_hidden_state(base.get_vision_features(pixels), self_weights, cross_weights)
    model.train(was_training)
    patch, num_partial = base.config.vision_config.patch_size, base.projector.num_partial
    grid = (pixels.shape[-2] // patch, pixels.shape[-1] // patch)
    order = base.projector.feature_order(grid[0] * grid[1])
    attends = num_partial > 0 and base.projector.config.cascaded_partial_perception
    return TokenMaps(
        picture=_as_framed(processor.image_processor, picture, pixels.shape[-2:]),
        grid=grid,
        num_partial=num_partial,
        cross=_mean_over_heads(cross_weights),
        among_partial=_mean_over_heads(self_weights)[:, :num_partial, :num_partial] if attends else None,
        windows=base.projector.config.layer_windows,
        edge=base.projector.config.edge,
        order=None if order is None else order.numpy(),
    )


def _mean_over_heads(weights: list[torch.Tensor]) -> np.ndarray:
    return torch.stack([layer[0].mean(dim=0) for layer in weights]).float().cpu().numpy()


def _as_framed(image_processor, picture: Image.Image, side: tuple[int, int]) -> np.ndarray:
    """The picture cropped and stretched as for the encoder, with more pixels for the eye."""
    scale = max(1, round(SHOWN_SIDE / max(side)))
    sizes = {}
    for name in ("size", "crop_size"):
        size = getattr(image_processor, name, None)
        if size:
            sizes[name] = {edge: pixels * scale for edge, pixels in dict(size).items() if pixels is not None}
    framed = image_processor(picture, do_normalize=False, do_rescale=False, return_tensors="np", **sizes)["pixel_values"][0]
    return np.asarray(framed).transpose(1, 2, 0).clip(0, 255).astype(np.uint8)
