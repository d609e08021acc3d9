"""Tokens and money, against clocks of our own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargo_mllm.endpoint.ledger import Ledger
from pargo_mllm.endpoint.prices import Price, read_price
from pargo_mllm.endpoint.spending import BudgetReached, Limits, Spending
from pargo_mllm.endpoint.usage import Usage, usage_of
from pargo_mllm.errors import UserError

NEVER = float("inf")


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def spending(clock, limits, file=None, price=None):
    return Spending(limits, file, price, clock, clock)


def done(of, expected, usage):
    of.end(of.begin(expected), expected, usage)


def test_prompts_and_answers_have_limits_of_their_own():
    clock = Clock()
    of = spending(clock, Limits(input_tokens=1000, output_tokens=100))
    # the first goes alone: what the endpoint makes of a prompt is not known
    first = of.begin(Usage(100, 50))
    assert of.wait(Usage(100, 50)) == NEVER
    of.end(first, Usage(100, 50), Usage(200, 10))
    # twice as many tokens as expected: so will be the others
    assert of.most(Usage(100, 50)).input in (200, 201)
    assert of.wait(Usage(390, 50)) == 0
    assert of.wait(Usage(410, 50)) == 60
    assert of.wait(Usage(10, 91)) == 60
    clock.now += 59
    assert of.wait(Usage(10, 91)) == 1


def test_what_is_more_than_a_whole_limit_is_told():
    of = spending(Clock(), Limits(output_tokens=100))
    with pytest.raises(UserError, match=r"at most 101 tokens is more than the limit of 100"):
        of.wait(Usage(5, 101))


def test_a_process_that_goes_on_counts_what_the_killed_one_sent(tmp_path):
    clock, limits = Clock(), Limits(requests=3, output_tokens=100)
    killed = spending(clock, limits, tmp_path / "sent.sqlite", Price(1.0, 1.0))
    done(killed, Usage(10, 40), Usage(10, 40))
    clock.now += 20
    killed.begin(Usage(10, 40))
    clock.now += 5
    of = spending(clock, limits, tmp_path / "sent.sqlite", Price(1.0, 1.0))
    # what was under way is taken to have ended just now, with all that it may have used
    assert of.wait(Usage(0, 20)) == 0
    assert of.wait(Usage(0, 60)) == 35
    assert of.wait(Usage(0, 61)) == 60
    assert of.tokens() == Usage(10, 40)
    assert of.perhaps().output == 40
    assert of.cost() == pytest.approx((10 + 40 + of.perhaps().input + 40) / 1e6)
    assert of.ledger.faults()["requests"] == 2


prices = st.floats(0.01, 100)
sent = st.tuples(st.integers(1, 5000), st.integers(1, 2000), st.floats(0, 1), st.booleans())


@given(
    prices,
    prices,
    st.floats(0.0001, 0.5),
    st.lists(sent, max_size=30),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 9),
)
def test_the_limit_of_cost_is_exceeded_by_one_request_at_most(input, output, limit, wanted, concurrency, dearer, beyond):
    """Whatever is asked of an endpoint that makes ``dearer`` times as many tokens of a prompt as expected, and goes ``beyond``
    the longest answer: only a request from which that is learned can go beyond the limit."""
    price = Price(input, output)
    of, under_way, charged, says_all = spending(Clock(), Limits(cost=limit), price=price), [], [], True

    def end():
        spent, expected, usage, says = under_way.pop(0)
        of.end(spent, expected, usage if says else None)
        charged.append(price.of(usage))

    for prompt, longest, share, says in wanted:
        # of one that says nothing nothing can be learned
        says_all &= says or dearer == beyond == 1
        if not says_all:
            break
        expected = Usage(prompt, longest)
        try:
            while len(under_way) >= concurrency or of.wait(expected):
                end()
        except BudgetReached:
            assert not under_way
            break
        # the first shows how far beyond it goes
        took = longest * beyond if not charged and not under_way else round(share * longest * beyond)
        under_way.append((of.begin(expected), expected, Usage(prompt * dearer, took), says))
    while under_way:
        end()
    spent_before = sum(charged) - max(charged, default=0.0)
    assert (sum(charged) if dearer == beyond == 1 else spent_before) <= limit * (1 + 1e-9)
    assert sum(charged) <= of.cost() * (1 + 1e-9) + 1e-12


def test_until_a_few_answers_have_said_what_they_take_one_goes_at_a_time():
    of = spending(Clock(), Limits(cost=1.0), price=Price(1.0, 1.0))
    one = Usage(400, 100)
    for _ in range(3):
        assert of.wait(one) == 0
        under_way = of.begin(one)
        assert of.wait(one) == NEVER
        # a picture is thirty times dearer than expected, and it thinks longer than it may speak
        of.end(under_way, one, Usage(12_000, 900))
    assert of.most(one) == Usage(13_200, 990)
    assert of.wait(one) == 0
    of.begin(one)
    assert of.wait(one) == 0
    # what a larger one is made into is not known: it teaches, alone among such
    assert of.wait(Usage(800, 100)) == 0
    of.begin(Usage(800, 100))
    assert of.wait(Usage(900, 100)) == NEVER
    assert of.wait(one) == 0


def test_answers_that_say_nothing_of_their_tokens_hold_nobody_up_and_are_told():
    of = spending(Clock(), Limits(cost=1.0), price=Price(1.0, 1.0))
    one = Usage(400, 100)
    for _ in range(3):
        done(of, one, None)
    of.begin(one)
    assert of.wait(one) == 0
    assert of.ledger.untold() == 3
    assert (of.paid(), of.perhaps()) == (0, Usage(1200, 300))
    assert of.told() == "0.0000 USD and perhaps 0.0020 more"


def test_a_refused_request_costs_nothing_and_a_silent_one_perhaps_all():
    of = spending(Clock(), Limits(requests=9), price=Price(1.0, 2.0))
    of.end(of.begin(Usage(0, 100)), Usage(0, 100), None, "HTTP 500", is_free=True)
    assert of.cost() == 0
    of.end(of.begin(Usage(0, 100)), Usage(0, 100), None, "ReadError")
    assert (of.paid(), of.cost()) == (0, pytest.approx(200e-6))
    assert of.ledger.faults() == {"requests": 2, "HTTP 500": 1, "ReadError": 1}


def test_a_ledger_that_is_none(tmp_path):
    (tmp_path / "sent.sqlite").write_text("no database at all, but a text of some length " * 20)
    with pytest.raises(UserError, match=r"sent\.sqlite"):
        Ledger(tmp_path / "sent.sqlite", 0.0)


def test_prices_are_read_as_people_write_them(tmp_path):
    (tmp_path / "prices.yaml").write_text(
        "# per million\nm: {input: 2.5, output: 10, cached_input: 1.25}\nn/x: {input: 0, output: 0}\n"
    )
    price = read_price(tmp_path / "prices.yaml", "m")
    # 600 of a thousand tokens had been read before
    assert price.of(Usage(1000, 100, 600)) == pytest.approx((400 * 2.5 + 600 * 1.25 + 100 * 10) / 1e6)
    assert price.batch == 0.5
    assert read_price(tmp_path / "prices.yaml", "n/x").of(Usage(9, 9)) == 0
    (tmp_path / "prices.json").write_text('\ufeff{"m": {"input": 1, "output": 2, "batch": 0.4}}')
    assert read_price(tmp_path / "prices.json", "m").batch == 0.4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("n: {input: 1, output: 1}", "has no price of 'm', only of n.*Add it"),
        ("m: {input: 1}", "output are missing"),
        ("m: 3", "are missing"),
        ("m: {input: -1, output: 1}", "no number from 0"),
        ("m: {input: .nan, output: 1}", "no number from 0"),
        ("m: {input: .inf, output: 1}", "no number from 0"),
        ("m: {input: '1', output: 1}", "no number from 0"),
        ("m: {input: true, output: 1}", "no number from 0"),
        ("m: {input: 1, output: 1, 3: 1}", "3 is none of"),
        ("[1]", "holds no prices"),
        ("", "holds no prices"),
        ("m: {input: 1", "cannot be read as prices"),
        ("!!python/object/apply:os.system [true]", "cannot be read as prices"),
    ],
)
def test_prices_that_are_none(tmp_path, text, says):
    (tmp_path / "prices.yaml").write_text(text)
    with pytest.raises(UserError, match=says) as error:
        read_price(tmp_path / "prices.yaml", "m")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 7}, Usage(5, 7)),
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(5, 7, 4)),
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 99}}, Usage(5, 7, 5)),
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": None}, Usage(5, 7)),
        # reasoning that is in the total alone, and in the answer
        ({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 100}, Usage(5, 95)),
        ({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": -100}, Usage(5, 7)),
        ({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 10**30}, Usage(5, 7)),
        # no request takes so many
        ({"prompt_tokens": 10**400, "completion_tokens": 0}, None),
        ({"prompt_tokens": 10**30, "completion_tokens": 10**30}, None),
        ({"prompt_tokens": 10**7, "completion_tokens": 10**7 + 1}, None),
        ({"prompt_tokens": -5, "completion_tokens": 7}, None),
        ({"prompt_tokens": True, "completion_tokens": 7}, None),
        ({"prompt_tokens": "5", "completion_tokens": 7}, None),
        ({"prompt_tokens": 5}, None),
        ([], None),
        (None, None),
    ],
)
def test_usage_is_read_where_it_is_some(usage, expected):
    assert usage_of({"usage": usage}) == expected
