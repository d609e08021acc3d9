"""EfficientNet-Lite0 from its state dict: features of patches, as a network that was trained on ImageNet has them.

The layout is the published one of EfficientNet (Tan and Le, 2019) without squeeze and excitation, with ReLU6, and TensorFlow's
padding, which puts the odd pixel on the right and below.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

WIDTH, STRIDE = 1280, 32
#: of a stage: blocks, stride of the first, whether blocks widen
_STAGES = ((1, 1, False), (2, 2, True), (2, 2, True), (3, 2, True), (3, 1, True), (4, 2, True), (1, 1, True))


@dataclass(frozen=True)
class EfficientNetLite0:
    weights: dict[str, Any]

    @classmethod
    def of(cls, file):
        return cls(torch.load(file, map_location="cpu", weights_only=True))

    @torch.no_grad()
    def features(self, pixels):
        """``[N, rows * columns, 1280]`` at stride 32, row by row, from pixels ``[N, H, W, 3]`` of 0...255."""
        hidden = self._widened(((pixels.float() - 127) / 128).permute(0, 3, 1, 2), "_conv_stem", "_bn0", 2)
        number = 0
        for blocks, first_stride, widens in _STAGES:
            for block in range(blocks):
                name, before = f"_blocks.{number}.", hidden
                if widens:
                    hidden = self._widened(hidden, f"{name}_expand_conv", f"{name}_bn0")
                stride = first_stride if block == 0 else 1
                hidden = self._widened(hidden, f"{name}_depthwise_conv", f"{name}_bn1", stride, hidden.shape[1])
                hidden = self._normed(self._convolved(hidden, f"{name}_project_conv"), f"{name}_bn2")
                hidden = hidden + before if hidden.shape == before.shape else hidden
                number += 1
        return self._widened(hidden, "_conv_head", "_bn1").flatten(2).transpose(1, 2)

    def classes(self, features):
        """The logits of ImageNet's 1,000 classes ``[N, 1000]`` from features."""
        return functional.linear(features.mean(dim=1), self.weights["_fc.weight"], self.weights["_fc.bias"])

    def _widened(self, hidden, convolution, norm, stride=1, groups=1):
        return functional.relu6(self._normed(self._convolved(hidden, convolution, stride, groups), norm))

    def _convolved(self, hidden, name, stride=1, groups=1):
        kernel = self.weights[f"{name}.weight"]
        sides = []
        for side in (hidden.shape[3], hidden.shape[2]):
            missing = max(0, (-(-side // stride) - 1) * stride + kernel.shape[-1] - side)
            sides += [missing // 2, missing - missing // 2]
        return functional.conv2d(functional.pad(hidden, sides), kernel, stride=stride, groups=groups)

    def _normed(self, hidden, name):
        own = (self.weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(hidden, *own, eps=1e-3)
