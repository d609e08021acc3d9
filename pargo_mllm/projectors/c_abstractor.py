"""The C-Abstractor (Cha et al., 2024, Honeybee): convolutions around a pooling, so that tokens keep their places."""

from __future__ import annotations

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from pargo_mllm.configuration import ParGoProjectorConfig
from pargo_mllm.projectors.base import GridProjector
from pargo_mllm.projectors.token_grid import token_grid

_EPS = 1e-6
# of the channels, in the gates
_SQUEEZE = 4


class SqueezeExcitation(nn.Module):
    """Gates of the channels, from their means over the picture (Hu et al., 2018)."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, squeezed)
        self.act = nn.SiLU()
        self.fc2 = nn.Linear(squeezed, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, rows, columns, C]`` to the same."""
        return x * self.fc2(self.act(self.fc1(x.mean((1, 2), keepdim=True)))).sigmoid()


class Bottleneck(GradientCheckpointingLayer):
    """The residual block of RegNet-Y: 1 x 1, 3 x 3 by channel, gates, 1 x 1; LayerNorm and SiLU as Honeybee has them."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        # channels come last: a convolution of 1 x 1 is a linear map
        self.conv1 = nn.Linear(inputs, outputs, bias=False)
        self.norm1 = nn.LayerNorm(outputs, eps=_EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs, bias=False)
        self.norm2 = nn.LayerNorm(outputs, eps=_EPS)
        self.gates = SqueezeExcitation(outputs, max(1, inputs // _SQUEEZE))
        self.conv3 = nn.Linear(outputs, outputs, bias=False)
        self.norm3 = nn.LayerNorm(outputs, eps=_EPS)
        self.act = nn.SiLU()
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut.extend((nn.Linear(inputs, outputs, bias=False), nn.LayerNorm(outputs, eps=_EPS)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, rows, columns, inputs]`` to ``[B, rows, columns, outputs]``."""
        out = self.act(self.norm1(self.conv1(x)))
        out = self.conv2(out.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out = self.gates(self.act(self.norm2(out)))
        return self.act(self.norm3(self.conv3(out)) + self.shortcut(x))


class CAbstractorProjector(GridProjector):
    """Half of the ``num_hidden_layers`` blocks, average pooling to a grid of tokens, the other blocks, and two linear maps.

    ``num_partial_tokens + num_global_tokens`` tokens for each picture or tile, in raster order of
    :func:`~pargo_mllm.projectors.token_grid.token_grid`.
    """

    _no_split_modules = ["Bottleneck"]  # noqa: RUF012 (transformers reads it from the class)

    def __init__(self, config: ParGoProjectorConfig):
        super().__init__(config)
        before = (config.num_hidden_layers + 1) // 2
        width = config.hidden_size
        self.position_embeddings = nn.Parameter(torch.empty(1, self.rows * self.columns, config.vision_hidden_size))
        self.fine = nn.Sequential(*(Bottleneck(width if i else config.vision_hidden_size, width) for i in range(before)))
        self.pool = nn.AdaptiveAvgPool2d(token_grid(config.num_tokens, self.rows, self.columns))
        self.coarse = nn.Sequential(*(Bottleneck(width, width) for _ in range(config.num_hidden_layers - before)))
        self.hidden_proj = nn.Linear(width, config.output_size)
        self.act = nn.SiLU()
        self.output_proj = nn.Linear(config.output_size, config.output_size)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(self, vision_features: torch.Tensor) -> torch.Tensor:
        """``[B, tokens, output_size]``; see :class:`GridProjector`."""
        self.check_features(vision_features)
        x = self.fine((vision_features + self.position_embeddings).unflatten(1, (self.rows, self.columns)))
        x = self.coarse(self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.output_proj(self.act(self.hidden_proj(x.flatten(1, 2))))
