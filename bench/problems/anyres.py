"""Pictures of different sizes as a problem."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar


@dataclass(frozen=True)
class AnyResolution:
    """Partial-global attention of pictures with ``lengths`` visual tokens."""

    lengths: tuple[int, ...]
    num_heads: int
    head_dim: int
    num_partial: int = 288
    num_global: int = 16
    op: ClassVar[str] = "anyres"

    @property
    def num_query(self) -> int:
        return self.num_partial + self.num_global

    @property
    def configuration(self) -> dict[str, Any]:
        """Its sizes, for a row."""
        return {**asdict(self), "lengths": list(self.lengths)}

    def shrunk(self, step: int) -> AnyResolution:
        """The same, tiny."""
        lengths = tuple(20 + 3 * index + step for index, _ in enumerate(self.lengths[:3]))
        return replace(self, lengths=lengths, num_heads=2, head_dim=16, num_partial=12, num_global=3)

    def __str__(self) -> str:
        pictures = f"{len(self.lengths)} pictures of n_v {min(self.lengths)}-{max(self.lengths)}"
        return f"anyres {pictures}, H{self.num_heads} D{self.head_dim} n_p {self.num_partial} n_g {self.num_global}"
