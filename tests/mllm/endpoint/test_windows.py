"""Limits in every window, whatever comes when: the clock is a number that the test turns."""

from hypothesis import given
from hypothesis import strategies as st

from pargo_mllm.endpoint.windows import SlidingWindow

LIMIT, SECONDS = 100, 60.0

# (seconds that pass before it is wanted, how much is expected, how long it takes, how much of it is used)
requests = st.lists(
    st.tuples(st.floats(0, 90), st.integers(0, LIMIT), st.floats(0, 100), st.floats(0, 1)), min_size=1, max_size=40
)


@given(requests, st.integers(1, 5), st.data())
def test_no_window_holds_more_than_the_limit_whenever_the_other_end_counts(wanted, concurrency, data):
    """Each request is counted by the other end at any time between its sending and its answer."""
    window, now, under_way, counted = SlidingWindow(LIMIT, SECONDS), 0.0, [], []

    def end_first():
        nonlocal now
        under_way.sort()
        end, number, used = under_way.pop(0)
        now = max(now, end)
        window.end(number, used, now)

    for passes, amount, lasts, share in wanted:
        now += passes
        while under_way and (len(under_way) >= concurrency or min(under_way)[0] <= now):
            end_first()
        while wait := window.wait(amount, now):
            if wait == float("inf"):
                end_first()
            else:
                assert wait > 0
                now += wait
        used = round(share * amount)
        counted.append((data.draw(st.floats(now, now + lasts)), used))
        under_way.append((now + lasts, window.begin(amount), used))
    counted.sort()
    for place, (begins, _) in enumerate(counted):
        assert sum(used for when, used in counted[place:] if when < begins + SECONDS) <= LIMIT


@given(st.lists(st.integers(1, LIMIT), min_size=1, max_size=30))
def test_nobody_waits_longer_than_it_takes(amounts):
    """Against a count of our own: where nothing is under way, the wait ends as soon as the amount fits."""
    window, now, sent = SlidingWindow(LIMIT, SECONDS), 0.0, []
    for amount in amounts:
        wait = window.wait(amount, now)
        used = sum(used for when, used in sent if when > now - SECONDS)
        assert (wait == 0) == (used + amount <= LIMIT)
        if wait:
            # a moment earlier it did not fit
            early = sum(used for when, used in sent if when > now + wait - SECONDS - 1e-3)
            assert early + amount > LIMIT
        now += wait
        assert window.wait(amount, now) == 0
        window.end(window.begin(amount), amount, now)
        sent.append((now, amount))
        now += 7.0


def test_what_is_under_way_must_end_first():
    window = SlidingWindow(10, 60)
    number = window.begin(8)
    assert window.wait(2, 0) == 0
    assert window.wait(3, 1000) == float("inf")
    # it used less than was held
    window.end(number, 1, 1000)
    assert window.wait(9, 1000) == 0
    assert window.wait(10, 1000) == 60


def test_what_ended_before_is_recalled():
    window = SlidingWindow(10, 60)
    window.recall(6, -50)
    window.recall(4, -10)
    assert window.wait(1, 0) == 10
    assert window.wait(7, 0) == 50
