"""The client: concurrency, attempts, and who is told what."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from pargo_mllm.endpoint.kept import Answer, KeptAnswers
from pargo_mllm.endpoint.pace import Pace, retry_after
from pargo_mllm.endpoint.reading import Again, Failure, answer_of, at, parsed, told
from pargo_mllm.errors import UserError

KEY_VARIABLE = "OPENAI_API_KEY"
# worth asking again: timeout, conflict, too many requests; and all of a server's own faults, from 500 on
TRANSIENT = (408, 409, 429)
# nobody waits longer than that for a limit, and no back-off is longer than the second; seconds
PATIENCE, LONGEST_BACK_OFF = 600.0, 60.0
# so many questions given up one behind the other, and nothing answered between: the endpoint is down
GIVEN_UP_IN_A_ROW = 5


class EndpointError(UserError):
    """An endpoint that cannot be asked at all: the message names it, its status, and what helps."""


@dataclass(frozen=True)
class Request:
    """What is asked.

    Args:
        messages: of the chat; a content is a text, or parts, such as pictures as base64.
        parameters: temperature, max_tokens…, as the endpoint calls them.
        run: tells apart what is asked several times over, for an answer each.
    """

    messages: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    run: int = 0


class Endpoint:
    """One model behind one endpoint.

    What is kept is found by the model's name, the messages, the parameters and the run, wherever they were asked: a server that
    moves to another address is not asked again. Two models of one name want a cache each.

    Args:
        url: the base, such as ``https://api.openai.com/v1``, or the address of ``chat/completions`` itself.
        cache: the SQLite file of answers.
        concurrency: requests in flight at most.
        attempts: at most, for each question.
        timeout: of one request with its whole answer, seconds.
        back_off: before the second attempt, seconds; twice as long before each further one, less up to a half by chance.

    Raises:
        EndpointError: for an address that is none or holds a password, for a key that no header can hold, and without httpx.
    """

    def __init__(
        self,
        url: str,
        model: str,
        cache: Path,
        *,
        concurrency: int = 8,
        attempts: int = 6,
        timeout: float = 120.0,
        back_off: float = 1.0,
    ):
        try:
            import httpx
        except ModuleNotFoundError:
            raise EndpointError("asking an endpoint needs httpx: pip install 'pargo[eval]'") from None
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            raise EndpointError("the endpoint's address is no URL; one looks like http://localhost:8000/v1.") from None
        path = address.path.rstrip("/")
        self.url = address.copy_with(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions")
        # without what may be secret
        self.name = str(address.copy_with(userinfo=b"", query=None, fragment=None))
        if address.scheme not in ("http", "https") or not address.host or (address.port or 0) > 65535:
            raise EndpointError(f"{self.name} is no address of an endpoint; one looks like http://localhost:8000/v1.")
        if address.userinfo:
            raise EndpointError(f"{self.name}: name and password do not belong into the address; {KEY_VARIABLE} holds the key.")
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise EndpointError(f"{KEY_VARIABLE} holds characters that no API key has; set it again.")
        self.model, self.cache = model, cache
        self.concurrency, self.attempts, self.timeout, self.back_off = concurrency, attempts, timeout, back_off

    def ask(self, requests: Sequence[Request], title: str | None = None) -> list[Answer | Failure]:
        """Ask everything that has no answer yet.

        Args:
            title: of a progress bar; none without one.

        Returns:
            One an entry of ``requests``, in their order; equal ones are asked once.

        Raises:
            EndpointError: if the endpoint is down, moved, does not take the key, or wants too long a pause. What was answered
                until then is kept.
        """
        kept = KeptAnswers(self.cache)
        try:
            asked = [self._digest(request) for request in requests]
            said: dict[str, Answer | Failure] = {key: answer for key in dict.fromkeys(asked) if (answer := kept.get(key))}
            pending = {key: request for key, request in zip(asked, requests, strict=True) if key not in said}
            if pending:
                with tqdm(
                    total=len(said) + len(pending), initial=len(said), desc=title, disable=title is None, unit="answer"
                ) as bar:
                    said |= asyncio.run(_Asking(self, kept, bar).all(pending))
        finally:
            kept.close()
        return [said[key] for key in asked]

    def headers(self) -> dict[str, str]:
        """Of a request."""
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def without_key(self, text: str) -> str:
        """A text of the endpoint's, which may have the key in it. Short words that local servers are given, EMPTY, are none."""
        return text.replace(self._key, "…") if len(self._key) >= 8 else text

    def body(self, request: Request) -> dict[str, Any]:
        """What is sent."""
        return {"model": self.model, "messages": list(request.messages), **request.parameters}

    def _digest(self, request: Request) -> str:
        asked = json.dumps([self.body(request), request.run], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()


class _Asking:
    """One call of :meth:`Endpoint.ask`."""

    def __init__(self, endpoint: Endpoint, kept: KeptAnswers, bar: tqdm):
        self.endpoint, self.kept, self.bar = endpoint, kept, bar
        self.pace = Pace()
        self.in_flight = self.given_up = 0

    async def all(self, pending: Mapping[str, Request]) -> dict[str, Answer | Failure]:
        said: dict[str, Answer | Failure] = {}
        waiting = iter(pending.items())
        workers = min(self.endpoint.concurrency, len(pending))
        async with _client(workers) as client:

            async def work() -> None:
                for key, request in waiting:
                    # another process may have asked meanwhile
                    said[key] = self.kept.get(key) or await self._patiently(client, key, request)
                    self.bar.update()

            tasks = [asyncio.create_task(work()) for _ in range(workers)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return said

    async def _patiently(self, client, key: str, request: Request) -> Answer | Failure:
        endpoint, reason = self.endpoint, ""
        for attempt in range(endpoint.attempts):
            await self._turn()
            try:
                said = await self._once(client, request)
            except Again as again:
                reason = str(again)
                self.bar.set_postfix_str(reason[:60])
                wait = min(LONGEST_BACK_OFF, endpoint.back_off * 2**attempt)
                if again.wait is not None:
                    # all hear of it; they do not come back at the same moment
                    self.pace.pause(time.monotonic() + again.wait)
                    wait = again.wait + random.uniform(0, endpoint.back_off / 2)
                else:
                    wait *= random.uniform(0.5, 1)
                self._bearable(wait)
                if attempt + 1 < endpoint.attempts:
                    await asyncio.sleep(wait)
            else:
                self.given_up = 0
                return self.kept.keep(key, said) if isinstance(said, Answer) else said
        self.given_up += 1
        if self.given_up >= GIVEN_UP_IN_A_ROW:
            raise EndpointError(
                f"{endpoint.name}: {self.given_up} questions in a row were given up after {endpoint.attempts} attempts each; "
                f"the last: {reason}. What was answered is kept: run the same command again when the endpoint answers."
            )
        return Failure(f"{reason}, {endpoint.attempts} times")

    async def _turn(self) -> None:
        """Return when a request may be sent."""
        while wait := self.pace.wait(time.monotonic()):
            self._bearable(wait)
            self.bar.set_postfix_str(f"at the endpoint's limit, {wait:.0f} s")
            await asyncio.sleep(wait)
        self.pace.sent()

    def _bearable(self, wait: float) -> None:
        if wait > PATIENCE:
            raise EndpointError(
                f"{self.endpoint.name} asks to wait {wait:.0f} s. What was answered is kept: run the same command again then."
            )

    async def _once(self, client, request: Request) -> Answer | Failure:
        """One request.

        Raises:
            Again: if it is worth another.
        """
        import httpx

        endpoint = self.endpoint
        self.in_flight += 1
        try:
            # escapes in place of letters: halves of characters, which files may hold, pass too
            sent = client.post(endpoint.url, content=json.dumps(endpoint.body(request)), headers=endpoint.headers())
            response = await asyncio.wait_for(sent, endpoint.timeout)
        except asyncio.TimeoutError:
            raise Again(f"no answer within {endpoint.timeout:g} s") from None
        except httpx.RequestError as error:
            raise Again(endpoint.without_key(f"{type(error).__name__} ({error})")) from None
        finally:
            self.in_flight -= 1
        text = endpoint.without_key(response.text)
        body = parsed(text)
        tokens = at(body, "usage", "total_tokens")
        tokens = min(tokens, 10**9) if isinstance(tokens, int) else 0
        self.pace.heard(response.headers, self.in_flight, tokens, time.monotonic())
        status = response.status_code
        if status == 200:
            return answer_of(body, text)
        reason = f"HTTP {status}: {told(body, text)}"
        if status in TRANSIENT or status >= 500:
            raise Again(reason, retry_after(response.headers.get("retry-after"), time.time()))
        if status in (401, 404) or status < 400:
            raise EndpointError(f"{endpoint.name}, model {endpoint.model}: {reason}. {_HELP[status if status >= 400 else 300]}")
        return Failure(reason)


def _client(connections: int):
    import httpx

    try:
        # its own timeouts leave an answer that drips out of bounds: the whole request has one instead
        return httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=connections))
    except (ImportError, OSError, ValueError) as error:
        raise EndpointError(f"the environment's proxy or certificates cannot be used: {error}") from error


_HELP = {
    401: f"The API key is taken from the environment variable {KEY_VARIABLE}.",
    404: "Look at the address (it mostly ends in /v1) and at the model's name.",
    300: "Give the address that answers itself.",
}
