"""Limits against clocks of our own."""

from datetime import datetime, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargo_mllm.endpoint.pace import Pace, retry_after, seconds
from pargo_mllm.endpoint.usage import Usage


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", 12),
        ("0.5", 0.5),
        ("20ms", 0.02),
        ("6m0s", 360),
        ("1h2m3.5s", 3723.5),
        ("1d", 86400),
        ("-3", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("3 apples", None),
        ("", None),
        (None, None),
    ],
)
def test_durations_are_read_as_endpoints_write_them(text, expected):
    assert seconds(text) == expected


def test_retry_after_may_be_a_date():
    now = datetime(2026, 3, 1, 12, 0, 0, tzinfo=timezone.utc)
    later = now.replace(second=37)
    assert retry_after(format_datetime(later, usegmt=True), now.timestamp()) == 37
    # one that has passed asks for no pause
    assert retry_after(format_datetime(now, usegmt=True), later.timestamp()) == 0
    assert retry_after("3", now.timestamp()) == 3


@given(st.text())
def test_no_header_breaks_the_reading(text):
    assert (seconds(text) or 0) >= 0
    assert (retry_after(text, 0.0) or 0) >= 0


def limits(remaining, reset, limit=None, of="requests"):
    headers = {f"x-ratelimit-remaining-{of}": remaining, f"x-ratelimit-reset-{of}": reset, f"x-ratelimit-limit-{of}": limit}
    return {name: value for name, value in headers.items() if value is not None}


def test_what_is_in_flight_counts_as_used():
    pace = Pace()
    pace.heard(limits("3", "10s"), in_flight=2, tokens=0, now=100)
    assert pace.wait(100) == 0
    pace.sent()
    assert pace.wait(101) == 9
    # the limit is full again, and nothing is known of it any more
    assert pace.wait(110) == 0


def test_an_answer_that_was_overtaken_lends_nothing():
    """Three are sent at 0; the last one's answer, heard first, says that nothing is left."""
    pace = Pace()
    pace.heard(limits("0", "10s", limit="3"), in_flight=2, tokens=0, now=1, sent=0)
    pace.heard(limits("2", "10s", limit="3"), in_flight=1, tokens=0, now=2, sent=0)
    pace.heard(limits("1", "10s", limit="3"), in_flight=0, tokens=0, now=3, sent=0)
    assert pace.wait(3) == 8
    # what was asked since knows better
    pace.heard(limits("1", "10s", limit="3"), in_flight=0, tokens=0, now=5, sent=4)
    assert pace.wait(5) == 0


def test_a_filled_limit_is_emptied_again():
    pace = Pace()
    pace.heard(limits("0", "10s", limit="2"), in_flight=0, tokens=0, now=0)
    assert pace.wait(4) == 6
    for _ in range(2):
        assert pace.wait(10) == 0
        pace.sent()
    assert pace.wait(12) == 8


def test_the_dearest_request_so_far_says_what_the_next_one_takes_of_the_tokens():
    pace = Pace()
    pace.heard(limits("900", "30s", of="tokens"), in_flight=0, tokens=400, now=0)
    for _ in range(2):
        assert pace.wait(1) == 0
        pace.sent()
    assert pace.wait(1) == 29


def test_a_request_dearer_than_the_limit_is_sent_when_the_limit_is_full():
    pace = Pace()
    pace.heard(limits("0", "5s", limit="100", of="tokens"), in_flight=0, tokens=400, now=0)
    assert pace.wait(1) == 4
    assert pace.wait(5) == 0


def test_a_pause_holds_for_all():
    pace = Pace()
    pace.pause(50)
    pace.pause(40)
    assert pace.wait(20) == 30


def test_tokens_of_prompts_and_answers_have_limits_of_their_own():
    pace = Pace()
    pace.heard(limits("1000", "30s", of="input-tokens") | limits("50", "20s", of="output-tokens"), 0, 0, 0)
    assert pace.wait(0, Usage(900, 40)) == 0
    assert pace.wait(0, Usage(900, 60)) == 20
    pace.sent(Usage(900, 40))
    assert pace.wait(1, Usage(200, 5)) == 29


def test_limits_as_anthropic_orders_the_words():
    pace, today = Pace(), datetime(2026, 3, 1, 12, 0, 0, tzinfo=timezone.utc).timestamp()
    headers = {
        "anthropic-ratelimit-output-tokens-remaining": "10",
        "anthropic-ratelimit-output-tokens-reset": "2026-03-01T12:00:42Z",
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2026-03-01T13:00:07+01:00",
    }
    pace.heard(headers, 0, 0, 100, None, today)
    assert pace.wait(100, Usage(0, 5)) == 7
    assert pace.wait(100, Usage(0, 50)) == 42
