"""Questions without end, put to a real server that misbehaves."""

import os
import signal
import threading
import time

import pytest

from pargo_mllm.endpoint import Answer, Endpoint, EndpointError, Failure, Request
from pargo_mllm.endpoint.kept import KeptAnswers
from pargo_mllm.endpoint.prices import Price
from pargo_mllm.endpoint.spending import BudgetReached, Limits, Spending
from pargo_mllm.endpoint.usage import Usage
from tests.mllm.made.endpoints import Reply, completion, serving


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def used(text, finish="stop", tokens=10):
    return Reply(completion(text, finish=finish) | {"usage": {"prompt_tokens": 100, "completion_tokens": tokens}})


EXPECTED = Usage(100, 20)


def make(text, expected=EXPECTED):
    return lambda: Request([{"role": "user", "content": text}], expected=expected)


def ask(server, tmp_path, questions, spending=None, concurrency=4, **how):
    """[(key, said)] in the order in which they were heard."""
    heard = []
    endpoint = Endpoint(server.url, "m", tmp_path / "kept.sqlite", concurrency=concurrency, back_off=0.01)
    endpoint.ask_each(questions, lambda key, said: heard.append((key, said)), spending or Spending(), **how)
    return heard


def test_requests_are_made_when_their_turn_comes(tmp_path):
    """Of a stream without end in sight only a few are in memory."""
    lock, made, most = threading.Lock(), set(), 0

    def making(number):
        def make_it():
            nonlocal most
            with lock:
                made.add(str(number))
                most = max(most, len(made))
            return Request([{"role": "user", "content": str(number)}])

        return make_it

    def respond(asked, number):
        with lock:
            made.discard(asked["messages"][0]["content"])
        return "yes"

    with serving(respond) as server:
        heard = ask(server, tmp_path, ((f"k{number}", making(number)) for number in range(30)))
    assert sorted(key for key, _ in heard) == sorted(f"k{number}" for number in range(30))
    assert most <= 4


def test_failures_that_were_paid_for_are_kept_until_they_are_asked_for_again(tmp_path):
    with serving(lambda asked, number: used("half", "length") if number == 0 else used("whole")) as server:
        cut = Failure("cut off (finish_reason length)", True, "length", Usage(100, 10))
        assert ask(server, tmp_path, [("k", make("a"))]) == [("k", cut)]
        assert ask(server, tmp_path, [("k", make("a"))]) == [("k", cut)]
        assert len(server.asked) == 1
        whole = Answer("whole", "judge-0613", Usage(100, 10))
        assert ask(server, tmp_path, [("k", make("a"))], retry_failed=True) == [("k", whole)]
        assert ask(server, tmp_path, [("k", make("a"))], retry_failed=True) == [("k", whole)]
        assert len(server.asked) == 2


def test_equal_questions_are_asked_once_though_they_are_asked_together(tmp_path):
    with serving(lambda asked, number: time.sleep(0.05) or f"{number}") as server:
        heard = ask(server, tmp_path, [("k", make("a"))] * 6 + [("l", make("b"))])
        assert len(server.asked) == 2
    assert len(heard) == 7
    assert len({said.text for key, said in heard if key == "k"}) == 1


def test_what_cannot_be_made_is_a_failure_and_is_not_asked(tmp_path):
    broken = Failure("no picture", kind="picture")
    with serving(lambda asked, number: "yes") as server:
        heard = dict(ask(server, tmp_path, [("a", lambda: broken), ("b", make("b"))]))
        assert (heard["a"], heard["b"].text, len(server.asked)) == (broken, "yes", 1)


def test_a_limit_of_cost_ends_it_before_it_is_exceeded(tmp_path):
    # a request is charged 100 + 20 millionths, and may be charged 100 + 40
    spending = Spending(Limits(cost=1000e-6), price=Price(1.0, 1.0))
    with serving(lambda asked, number: used("yes", tokens=20)) as server:
        questions = [(f"k{number}", make(str(number), Usage(100, 40))) for number in range(50)]
        with pytest.raises(BudgetReached, match=r"limit of 0.001 USD"):
            ask(server, tmp_path, questions, spending)
        assert len(server.asked) * 120e-6 == pytest.approx(spending.cost())
        # one more could have been too much
        assert 1000e-6 - 141e-6 < spending.cost() <= 1000e-6
        # all that was paid for is kept
        free = Spending(Limits(cost=1e-9), price=Price(1.0, 1.0))
        assert len(ask(server, tmp_path, questions[: len(server.asked)], free)) == len(server.asked)


def test_too_many_requests_without_a_word_of_how_long_pause_all(tmp_path):
    """Two questions at a time; while one is told "too many", the other is asked nothing."""
    came, told = [], {}

    def respond(asked, number):
        came.append(time.monotonic())
        if number in (2, 3):
            told[number] = time.monotonic()
            return Reply(status=429)
        return "yes"

    endpoint_pause = 0.2
    with serving(respond) as server:
        endpoint = Endpoint(server.url, "m", tmp_path / "kept.sqlite", concurrency=1, back_off=endpoint_pause)
        endpoint.ask_each(((f"k{n}", make(str(n))) for n in range(6)), lambda key, said: None, Spending())
    assert came[3] - told[2] >= endpoint_pause
    # twice as long the second time in a row
    assert came[4] - told[3] >= 2 * endpoint_pause


def test_money_that_is_used_up_at_the_provider_ends_it_at_once(tmp_path):
    body = {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}
    with serving(lambda asked, number: Reply(body, status=429)) as server:
        with pytest.raises(EndpointError, match=r"exceeded your current quota"):
            ask(server, tmp_path, [(f"k{n}", make(str(n))) for n in range(9)], concurrency=1)
        assert len(server.asked) == 1


def test_what_all_requests_have_wrong_ends_it(tmp_path):
    body = {"error": {"message": "this model takes no pictures"}}
    with serving(lambda asked, number: Reply(body, status=400)) as server:
        with pytest.raises(EndpointError, match=r"50 requests in a row.*takes no pictures"):
            ask(server, tmp_path, ((f"k{n}", make(str(n))) for n in range(500)), concurrency=1)
        assert len(server.asked) == 50


@pytest.mark.parametrize(
    "fatal",
    [
        Reply({"error": {"message": "no"}}, status=401),
        Reply(status=404),
        Reply(status=302, headers={"Location": "/v1/other"}),
        Reply({"error": {"code": "insufficient_quota"}}, status=429),
        Reply(status=429, headers={"Retry-After": "9999"}),
    ],
    ids=lambda reply: str(reply.status),
)
def test_one_fatal_reply_drops_no_answer_that_is_under_way(tmp_path, fatal):
    """Three questions are under way when the fourth's reply ends it; they are paid for."""

    def respond(asked, number):
        if asked["messages"][0]["content"] == "3":
            while len(server.asked) < 4:
                time.sleep(0.01)
            return fatal
        time.sleep(0.3)
        return used("yes")

    heard = []
    with serving(respond) as server:
        endpoint = Endpoint(server.url, "m", tmp_path / "kept.sqlite", concurrency=4)
        questions = [(f"k{number}", make(str(number))) for number in range(20)]
        spending = Spending(price=Price(1.0, 1.0))
        with pytest.raises(EndpointError):
            endpoint.ask_each(questions, lambda key, said: heard.append(key), spending)
        # nothing more was sent
        assert len(server.asked) == 4
    assert sorted(heard) == ["k0", "k1", "k2"]
    assert spending.paid() == pytest.approx(3 * 110e-6)
    assert spending.perhaps() == Usage()
    kept = KeptAnswers(tmp_path / "kept.sqlite")
    assert all(kept.get(f"k{number}") for number in range(3))
    kept.close()


@pytest.mark.parametrize(("is_patient", "kept_of_them"), [(True, 4), (False, 0)])
def test_an_interrupt_waits_for_what_is_under_way_and_another_one_does_not(is_patient, kept_of_them, tmp_path):
    said, ended = threading.Event(), threading.Event()

    def interrupt():
        while len(server.asked) < 4:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        if is_patient:
            time.sleep(0.3)
            said.set()
        # interrupts that follow each other too closely are one
        while not is_patient and not ended.wait(1):
            os.kill(os.getpid(), signal.SIGINT)

    heard = []
    with serving(lambda asked, number: said.wait(60) and used("yes")) as server:
        endpoint = Endpoint(server.url, "m", tmp_path / "kept.sqlite", concurrency=4)
        threading.Thread(target=interrupt, daemon=True).start()
        questions = [(f"k{n}", make(str(n))) for n in range(20)]
        try:
            with pytest.raises(KeyboardInterrupt):
                endpoint.ask_each(questions, lambda key, said: heard.append(key), Spending())
        finally:
            ended.set()
            said.set()
        assert len(server.asked) == 4
    assert len(heard) == kept_of_them


def test_an_answer_is_kept_before_it_counts_as_paid(tmp_path):
    """A kill between the two leaves what was paid for kept, and counted as perhaps paid."""

    class Killed(Spending):
        def end(self, *_, **__):
            raise OSError("killed here")

    with serving(lambda asked, number: used("yes")) as server, pytest.raises(OSError, match="killed here"):
        ask(server, tmp_path, [("k", make("a"))], Killed())
    kept = KeptAnswers(tmp_path / "kept.sqlite")
    assert kept.get("k").text == "yes"
    kept.close()


def test_equal_questions_that_fail_again_are_asked_once(tmp_path):
    for again in (False, True):
        with serving(lambda asked, number: Reply(completion("…", finish="length"))) as server:
            questions = [("same", make("a")) for _ in range(10)]
            heard = ask(server, tmp_path, questions, concurrency=2, retry_failed=again)
            assert len(server.asked) == 1, again
        assert all(isinstance(said, Failure) for _, said in heard)
