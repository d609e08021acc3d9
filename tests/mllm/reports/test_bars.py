"""Bars: where the axis ends."""

import re

import pytest

from pargo_mllm.reports.bars import Bar, draw_bars


@pytest.mark.parametrize(
    ("values", "end"),
    [
        # no share is more than 1, whatever its whisker says
        ([(0.998, 0.005), (0.4, None)], 1),
        ([(0.42, 0.05)], 0.5),
        ([(180.0, 25.0)], 400),
    ],
)
def test_the_axis_ends_above_every_bar_and_at_one_for_shares(values, end):
    drawn = draw_bars(["run"], {str(place): [Bar(*one, "label")] for place, one in enumerate(values)}, "title")
    ticks = [float(tick) for tick in re.findall(r"text-anchor='middle'>([\d.]+)<", drawn)]
    assert ticks == pytest.approx([end * part / 4 for part in range(5)])
    right = max(float(x) for x in re.findall(r"<line x1='([\d.]+)' x2='\1' y1='18'", drawn))
    reach = [float(x) + float(width) for x, width in re.findall(r"<rect x='([\d.]+)' y='[\d.]+' width='([\d.]+)'", drawn)]
    whiskers = [float(x) for x in re.findall(r"x2='([\d.]+)'[^>]*stroke-width", drawn)]
    assert max(reach + whiskers) <= right + 0.1
    assert reach[0] - 250 == pytest.approx((right - 250) * values[0][0] / end, abs=0.2)
