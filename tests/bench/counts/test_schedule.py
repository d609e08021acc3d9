"""The kernels' own traffic, against the least that anybody moves. The count itself is tested in the interpreter."""

import pytest
import torch

from bench.counts.schedule import scheduled_work, visited
from bench.counts.traffic import least_work
from bench.problems.attention import Cascaded, PartialGlobal
from pargo_kernels.intervals import interval_mask, window_bounds


@pytest.mark.parametrize("arch", ("sm_80", "sm_90", "sm_100", "gfx942"))
@pytest.mark.parametrize("direction", ("forward", "backward"))
@pytest.mark.parametrize(
    "problem", (PartialGlobal(64, 16, 64, 576, 288, 16), PartialGlobal(1, 16, 64, 65536, 32768, 16)), ids=str
)
def test_flagship_traffic_is_within_5_percent_of_the_minimum(problem, direction, arch):
    moved = scheduled_work(problem, direction, torch.bfloat16, arch).bytes
    least = least_work(problem, direction, 2).bytes
    assert least <= moved <= 1.05 * least


def test_both_directions_add_up():
    problem = Cascaded(2, 4, 64, 300, 48)
    parts = [scheduled_work(problem, direction, torch.bfloat16, "sm_90") for direction in ("forward", "backward")]
    assert scheduled_work(problem, "forward+backward", torch.bfloat16, "sm_90") == tuple(map(sum, zip(*parts, strict=True)))


def test_fp32_is_not_counted():
    with pytest.raises(ValueError, match=r"dtype=torch\.float32"):
        scheduled_work(Cascaded(1, 1, 16, 30, 3), "forward", torch.float32, "sm_90")


@pytest.mark.parametrize("edge", ("clamp", "truncate"))
@pytest.mark.parametrize("window", (1, 48, 97, 288))
def test_a_band_touches_what_its_blocks_see(window, edge):
    """Rows of a block see a contiguous run of keys; the tiles are as many as the run needs, and two more at most."""
    mask = interval_mask(window_bounds(288, window, edge), 288)
    touched, tiles = visited(288, 288, window, edge, block=64, tile=32)
    runs = [int(mask[first : first + 64].any(0).sum()) for first in range(0, 288, 64)]
    assert touched == sum(runs)
    assert sum(-(-run // 32) for run in runs) <= tiles <= sum(-(-run // 32) + 2 for run in runs)
