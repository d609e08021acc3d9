"""The whole projector as a problem."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar


@dataclass(frozen=True)
class ProjectorStep:
    """Forward and backward of the whole ParGo projector, as wide as the encoder; the paper's has six layers."""

    batch: int
    num_keys: int
    num_partial: int = 288
    num_global: int = 16
    num_layers: int = 6
    width: int = 1024
    num_heads: int = 16
    op: ClassVar[str] = "projector"

    @property
    def configuration(self) -> dict[str, Any]:
        """Its sizes, for a row."""
        return asdict(self)

    def shrunk(self, step: int) -> ProjectorStep:
        """The same, tiny."""
        return replace(
            self, batch=2, num_keys=40 + 10 * step, num_partial=20, num_global=3, num_layers=2, width=32, num_heads=2
        )

    def __str__(self) -> str:
        layers = f"{self.num_layers} layers, {self.width} wide, {self.num_heads} heads"
        return f"projector B{self.batch} n_v {self.num_keys} n_p {self.num_partial} n_g {self.num_global}, {layers}"
