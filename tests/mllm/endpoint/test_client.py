"""A real server that misbehaves: what it counts is what was asked."""

import base64
import json
import multiprocessing
import re
import sqlite3
import sys
import threading
import time
from email.utils import formatdate
from urllib.parse import quote

import pytest

from pargo_mllm.endpoint import Answer, Endpoint, EndpointError, Failure, Request
from pargo_mllm.errors import UserError
from tests.mllm.made.endpoints import Reply, completion, serving

SECRET = "sk-very-secret-0123456789"


class Asker:
    """A process of its own that asks; forked before there is a server, whose threads would not come along."""

    def __init__(self, cache, count):
        context = multiprocessing.get_context("fork")
        self.here, there = context.Pipe()
        self.process = context.Process(target=self.ask, args=(there, cache, count), daemon=True)
        self.process.start()

    @staticmethod
    def ask(there, cache, count):
        endpoint = Endpoint(there.recv(), "judge", cache, concurrency=4, back_off=0.01)
        there.send([one.text for one in endpoint.ask(questions(count))])

    def start(self, server):
        self.here.send(server.url)

    def said(self):
        """The answers' texts."""
        assert self.here.poll(60)
        return self.here.recv()

    def kill(self):
        self.process.kill()
        self.process.join()


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def question(text="hello", run=0, **parameters):
    return Request([{"role": "user", "content": text}], parameters, run)


def questions(count):
    return [question(f"question {index}") for index in range(count)]


def client(server, tmp_path, **settings):
    return Endpoint(server.url, "judge", tmp_path / "kept.sqlite", **{"back_off": 0.01, **settings})


def echo(asked, number):
    return f"said {asked['messages'][-1]['content']}"


def first_then_good(*replies):
    """Misbehaves so often, then answers."""
    return lambda asked, number: replies[number] if number < len(replies) else "good"


def test_answers_come_in_the_order_of_the_questions(tmp_path):
    with serving(lambda asked, number: time.sleep(0.02 * (number % 3)) or echo(asked, number)) as server:
        said = client(server, tmp_path).ask(questions(20))
    assert said == [Answer(f"said question {index}", "judge-0613") for index in range(20)]
    assert server.headers[0]["path"] == "/v1/chat/completions"


def test_never_more_requests_at_a_time_than_are_allowed(tmp_path):
    with serving(lambda asked, number: time.sleep(0.03) or "yes") as server:
        client(server, tmp_path, concurrency=3).ask(questions(24))
        # the server saw all three at work, and never a fourth
        assert server.most_in_flight == 3


@pytest.mark.parametrize(
    "fault",
    [
        Reply(status=500),
        Reply(status=408),
        Reply(status=409),
        Reply(status=429),
        Reply(status=503, body={"error": "overloaded"}),
        Reply(completion("half"), cut=True),
        Reply(hangs_up=True),
        Reply(b'{"choices": [{"mess'),
        Reply(b"[" * 100_000),
        Reply(b"\xff\xfe\x00"),
        Reply({"choices": []}),
        Reply({"choices": None}),
        Reply([1, 2]),
        Reply({"choices": [{"message": "text"}]}),
        Reply({"error": {"message": "upstream is down"}}),
    ],
    ids=lambda fault: f"{fault.status} {str(fault.body)[:25]}",
)
def test_a_passing_fault_is_asked_again(tmp_path, fault):
    with serving(first_then_good(fault, fault)) as server:
        assert client(server, tmp_path).ask([question()]) == [Answer("good", "judge-0613")]
        assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(completion(None, refusal="I must not")), "refused: I must not"),
        (Reply(completion("")), "empty"),
        (Reply(completion("  \n")), "empty"),
        (Reply(completion(None)), "empty"),
        (Reply(completion("half \ud83d")), "halves of characters"),
        (Reply(completion([{"type": "image_url"}])), "empty"),
        (Reply(completion([])), "empty"),
        (Reply(completion("0.5 beca", finish="length")), "finish_reason length"),
        (Reply(completion("0.5", finish="content_filter")), "finish_reason content_filter"),
        (Reply(status=400, body={"error": {"message": "no such parameter"}}), "HTTP 400: no such parameter"),
        (Reply(status=422, body=b"<html>bad</html>"), "HTTP 422: <html>bad</html>"),
    ],
)
def test_what_is_no_answer_is_a_failure_with_its_reason_and_is_not_kept(tmp_path, reply, reason):
    with serving(first_then_good(reply)) as server:
        (said,) = client(server, tmp_path).ask([question()])
        assert isinstance(said, Failure)
        assert reason in said.reason
        assert len(server.asked) == 1
        # it is no answer, so it is asked for again
        assert client(server, tmp_path).ask([question()]) == [Answer("good", "judge-0613")]


def test_attempts_have_an_end(tmp_path):
    with serving(lambda asked, number: Reply(status=500, body={"error": {"message": "broken"}})) as server:
        (said,) = client(server, tmp_path, attempts=4).ask([question()])
        assert said == Failure("HTTP 500: broken, 4 times")
        assert len(server.asked) == 4


def test_an_endpoint_that_is_down_ends_the_asking_and_keeps_what_it_said(tmp_path):
    def respond(asked, number):
        return "good" if number < 3 else Reply(status=502)

    with serving(respond) as server:
        with pytest.raises(EndpointError, match=r"5 questions in a row.*HTTP 502.*is kept"):
            client(server, tmp_path, attempts=2, concurrency=1).ask(questions(100))
        assert len(server.asked) == 3 + 5 * 2
        server.respond = echo
        asked_before = len(server.asked)
        client(server, tmp_path).ask(questions(100))
        assert len(server.asked) == asked_before + 97


def test_nobody_listens(tmp_path):
    endpoint = Endpoint("http://127.0.0.1:9/v1", "judge", tmp_path / "kept.sqlite", attempts=2, back_off=0.01)
    with pytest.raises(EndpointError, match=r"http://127.0.0.1:9/v1.*ConnectError"):
        endpoint.ask(questions(10))


def test_a_text_in_parts_is_a_text(tmp_path):
    parts = [{"type": "text", "text": "Part one. "}, {"type": "text", "text": "Part two."}]
    with serving(lambda asked, number: Reply(completion(parts))) as server:
        assert client(server, tmp_path).ask([question()])[0].text == "Part one. Part two."


@pytest.mark.parametrize("status", [401, 404, 301, 204])
def test_a_wrong_key_address_or_model_ends_it_at_once(tmp_path, status):
    with serving(lambda asked, number: Reply(status=status, headers={"Location": "http://127.0.0.1:9/"})) as server:
        with pytest.raises(EndpointError, match=rf"127.0.0.1.*model judge.*HTTP {status}"):
            client(server, tmp_path, concurrency=1).ask(questions(50))
        assert len(server.asked) == 1


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_waited_for_by_all(tmp_path, as_date):
    came = []

    def respond(asked, number):
        came.append(time.time())
        # a date has whole seconds: two of them ahead are more than one
        after = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
        return Reply(status=429, headers={"Retry-After": after}) if number == 0 else "good"

    with serving(respond) as server:
        client(server, tmp_path, concurrency=1).ask(questions(3))
    assert len(came) == 4
    assert came[1] - came[0] >= 1


def test_a_limit_in_the_headers_is_waited_for_before_it_is_hit(tmp_path):
    """Three requests in each half second, and a server that counts those beyond."""
    lock, state = threading.Lock(), {"window": 0.0, "left": 3, "beyond": 0}

    def respond(asked, number):
        with lock:
            now = time.monotonic()
            if now >= state["window"]:
                state.update(window=now + 0.5, left=3)
            if state["left"] == 0:
                state["beyond"] += 1
                return Reply(status=429)
            state["left"] -= 1
            return Reply(
                completion("good"),
                headers={
                    "x-ratelimit-limit-requests": "3",
                    "x-ratelimit-remaining-requests": str(state["left"]),
                    "x-ratelimit-reset-requests": f"{(state['window'] - now) * 1000:.0f}ms",
                },
            )

    with serving(respond) as server:
        said = client(server, tmp_path, concurrency=3).ask(questions(10))
        assert all(isinstance(one, Answer) for one in said)
    assert state["beyond"] == 0


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=429, headers={"Retry-After": "86400"}),
        Reply(status=429, headers={"Retry-After": "9" * 300}),
        Reply(completion("x"), headers={"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8h0m0s"}),
    ],
)
def test_nobody_waits_for_a_day(tmp_path, reply):
    with (
        serving(lambda asked, number: reply) as server,
        pytest.raises(EndpointError, match=r"asks to wait (\d{5} s|more than ten days)"),
    ):
        client(server, tmp_path, concurrency=1).ask(questions(3))


def test_a_slow_answer_is_given_up_as_a_whole(tmp_path):
    with serving(lambda asked, number: time.sleep(0.5) or "late" if number == 0 else "good") as server:
        assert client(server, tmp_path, timeout=0.1).ask([question()]) == [Answer("good", "judge-0613")]


def test_what_is_kept_is_not_asked_again_wherever_the_model_moves(tmp_path):
    with serving(echo) as server:
        first = client(server, tmp_path).ask(questions(5))
    with serving(echo) as elsewhere:
        assert client(elsewhere, tmp_path).ask(questions(5)) == first
        assert elsewhere.asked == []


def test_every_part_of_what_is_asked_tells_answers_apart(tmp_path):
    with serving(lambda asked, number: str(number)) as server:
        different = [question(), question(run=1), question(temperature=0), question(temperature=1), question("other")]
        said = client(server, tmp_path, concurrency=1).ask([*different, question()])
        assert [one.text for one in said] == ["0", "1", "2", "3", "4", "0"]
        other = Endpoint(server.url, "another", tmp_path / "kept.sqlite")
        assert other.ask([question()])[0].text == "5"


def test_an_interrupted_run_asks_nothing_twice(tmp_path):
    """Killed in its midst; what the server had answered and the client had kept is not asked for again."""
    first, again = Asker(tmp_path / "kept.sqlite", 60), Asker(tmp_path / "kept.sqlite", 60)
    with serving(lambda asked, number: time.sleep(0.05) or echo(asked, number)) as server:
        first.start(server)
        while len(server.asked) < 24:
            time.sleep(0.01)
        first.kill()
        time.sleep(0.1)
        before = server.said()
        again.start(server)
        assert again.said() == [f"said question {index}" for index in range(60)]
        # only the four in flight may come twice
        assert len(set(before) & set(server.said()[len(before) :])) <= 4
        assert 24 <= len(before) < 60


def test_processes_share_what_is_kept(tmp_path):
    """Two at once give the same answers, though the server never says the same twice; a third asks nothing."""
    both = [Asker(tmp_path / "kept.sqlite", 40) for _ in range(2)]
    with serving(lambda asked, number: time.sleep(0.02) or f"answer {number}") as server:
        for asker in both:
            asker.start(server)
        first, second = (asker.said() for asker in both)
        assert first == second
        assert len(set(first)) == 40
        # and none of them is paid for twice
        assert sorted(server.said()) == sorted(f"question {index}" for index in range(40))
        asked = len(server.asked)
        client(server, tmp_path).ask(questions(40))
        assert len(server.asked) == asked


def test_the_key_is_sent_and_written_nowhere(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", f" {SECRET}\n")

    def respond(asked, number):
        """Says the key back wherever it can."""
        body = {"error": {"message": f"wrong key {SECRET}"}}
        return [
            Reply(status=500, body=body),
            Reply(status=400, body=body),
            f"your key is {SECRET}",
            Reply(status=401, body=body),
        ][min(number, 3)]

    with serving(respond) as server:
        endpoint = client(server, tmp_path, concurrency=1)
        failed, answered = endpoint.ask(questions(2), title="asking")
        assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
        with pytest.raises(EndpointError, match="OPENAI_API_KEY") as error:
            endpoint.ask([question("more")])
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    said = f"{failed} {answered} {error.value} {endpoint!r} {capfd.readouterr()}"
    assert written
    assert not any(SECRET.encode() in text for text in written)
    assert SECRET not in said


def test_the_key_is_hidden_in_every_spelling(tmp_path, monkeypatch):
    key = 'sk-a/b"c-0123456789?'
    monkeypatch.setenv("OPENAI_API_KEY", key)
    in_base64 = base64.b64encode(key.encode()).decode()
    escaped = json.dumps(key)[1:-1].replace("-", "\\u002D").replace("/", "\\/")
    all_escaped = "".join(f"\\u{ord(one):04x}" for one in key)
    twice = json.dumps(key.replace("-", "\\u002d"))[1:-1]
    spelled = [escaped, all_escaped, twice, in_base64, in_base64.rstrip("="), quote(key, safe="")]
    body = f'{{"error": {{"message": "not with <{"> <".join(spelled)}> but \\\\ and \\u0041"}}}}'
    with serving(lambda asked, number: Reply(body.encode(), status=400)) as server:
        (said,) = client(server, tmp_path).ask([question()])
    hidden = re.sub("…=*", "…", said.reason)
    assert hidden == f"HTTP 400: not with {' '.join(['<…>'] * len(spelled))} but \\ and A"


def test_a_word_that_stands_for_no_key_stays_in_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    with serving(lambda asked, number: "the box is EMPTY") as server:
        assert client(server, tmp_path).ask([question()])[0].text == "the box is EMPTY"


def test_halves_of_characters_are_asked_about(tmp_path):
    with serving(lambda asked, number: "good") as server:
        assert client(server, tmp_path).ask([question("\ud83d")])[0].text == "good"
        assert server.said() == ["\ud83d"]


@pytest.mark.parametrize(
    "url", ["", "localhost", "localhost:8000/v1", "ftp://host/v1", "http://", "http://[::1", "http://h:99999"]
)
def test_an_address_that_is_none(tmp_path, url):
    with pytest.raises(EndpointError, match="one looks like"):
        Endpoint(url, "judge", tmp_path / "kept.sqlite")


def test_no_password_in_an_address(tmp_path):
    with pytest.raises(EndpointError, match=r"http://host/v1:.*OPENAI_API_KEY") as error:
        Endpoint("http://me:hidden@host/v1?key=hidden", "judge", tmp_path / "kept.sqlite")
    assert "hidden" not in str(error.value)


def test_a_key_that_no_header_holds_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\nsk-two")
    with pytest.raises(EndpointError, match="OPENAI_API_KEY") as error:
        Endpoint("http://host/v1", "judge", tmp_path / "kept.sqlite")
    assert "sk-" not in str(error.value)


def test_without_httpx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(EndpointError, match=r"pip install 'pargo\[eval\]'"):
        Endpoint("http://host/v1", "judge", tmp_path / "kept.sqlite")


def test_a_cache_that_is_none(tmp_path):
    (tmp_path / "kept.sqlite").write_text("no database at all, but a text of some length " * 20)
    with serving(echo) as server, pytest.raises(UserError, match=r"kept.sqlite.*Give another file"):
        client(server, tmp_path).ask([question()])
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("CREATE TABLE answers (id INTEGER)")
    with serving(echo) as server, pytest.raises(UserError, match=r"other\.sqlite"):
        Endpoint(server.url, "judge", tmp_path / "other.sqlite").ask([question()])
