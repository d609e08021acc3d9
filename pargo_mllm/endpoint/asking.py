"""Asking: concurrency, attempts, and who is told what."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tqdm.auto import tqdm

from pargo_mllm.endpoint.addressed import Addressed
from pargo_mllm.endpoint.claims import LEASE
from pargo_mllm.endpoint.kept import Answer, Failure, KeptAnswers
from pargo_mllm.endpoint.pace import Pace, retry_after
from pargo_mllm.endpoint.reading import Again, answer_of, at, parsed, told
from pargo_mllm.endpoint.request import KEY_VARIABLE, EndpointError, Request
from pargo_mllm.endpoint.spending import Spending, Spent
from pargo_mllm.endpoint.usage import MOST, Usage, usage_of

# worth asking again: timeout, conflict, too many requests; and all of a server's own faults, from 500 on
TRANSIENT = (408, 409, 429)
# nobody waits longer than that for a limit, and no back-off is longer than the second; seconds
PATIENCE, LONGEST_BACK_OFF = 600.0, 60.0
# so many questions given up one behind the other, and nothing answered between: the endpoint is down
GIVEN_UP_IN_A_ROW = 5
# so many that it did not take: something that all of them have is wrong
NOT_TAKEN_IN_A_ROW = 50
# requests that are made at a time: their pictures are opened in threads
_MAKING = 4
# what else must have ended first is looked for so often; seconds
_LOOK_AGAIN = 0.02
# whether another process has ended asking is looked for so often; seconds
_LOOK_AT_CLAIMS = 0.1

Said = Answer | Failure
# makes a request when its turn comes, or says why there is none
Made = Callable[[], Request | Failure]


class Asking:
    """Questions of one stream, put to one endpoint; see :meth:`pargo_mllm.endpoint.client.Endpoint.ask_each`."""

    def __init__(
        self,
        endpoint: Addressed,
        kept: KeptAnswers,
        bar: tqdm,
        spending: Spending,
        check: Callable[[Answer], Said],
        keeps_failures: bool = False,
        retry_failed: bool = False,
    ):
        self.endpoint, self.kept, self.bar, self.spending = endpoint, kept, bar, spending
        self.check, self.keeps_failures, self.retry_failed = check, keeps_failures, retry_failed
        self.pace = Pace()
        self.in_flight = self.given_up = self.not_taken = self.too_many = self.retries = 0
        # what is being asked: an equal question waits for the same answer
        self._asked: dict[str, asyncio.Future[Said]] = {}
        # of those that are asked again, equal ones are asked once
        self._failed_again: set[str] = set()
        # why nothing more is sent
        self._why: BaseException | None = None

    async def all(self, waiting: Iterator[tuple[str, Made]], hear: Callable[[str, Said], None]) -> None:
        """Ask everything; ``hear`` is told each key with what was said, in the order of the answers.

        Whatever ends it, Ctrl-C too: nothing more is sent, and what is under way, which is paid for, is waited for (each as
        long as any request may take), heard and kept. A second Ctrl-C leaves it.
        """
        workers, self._making, self._sending = self.endpoint.concurrency, asyncio.Semaphore(_MAKING), asyncio.Lock()
        self._stopped = asyncio.Event()
        async with _client(workers) as client:

            async def work() -> None:
                try:
                    for key, make in waiting:
                        hear(key, self._kept(key) or await self._once_only(client, key, make))
                        self.bar.update()
                        # those who wait for answers have their turn, however many are kept
                        await self._sleep(0)
                except _Stopped:
                    return
                except Exception as error:
                    self._stop(error)

            tasks = [asyncio.create_task(work()) for _ in range(workers)]
            renewing = asyncio.create_task(self._renew())
            try:
                with _at_interrupt(self._interrupted):
                    await asyncio.wait(tasks)
            finally:
                tasks.append(renewing)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        if self._why is not None:
            raise self._why

    async def _renew(self) -> None:
        """Other processes see that what is asked here is asked, however long it takes."""
        while True:
            await asyncio.sleep(LEASE / 4)
            try:
                self.kept.claims.renew()
            # without its claims another process would ask the same
            except Exception as error:
                self._stop(error)
                return

    def _stop(self, why: BaseException) -> None:
        """Nothing more is sent; of several reasons the first is told."""
        self._why = self._why or why
        self._stopped.set()

    def _interrupted(self) -> None:
        self._stop(KeyboardInterrupt())
        if self.in_flight:
            said = f"{self.in_flight} answers under way are waited for, at most {self.endpoint.timeout:g} s; Ctrl-C leaves them"
            self.bar.write(said, file=sys.stderr)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, unless nothing more is sent.

        Raises:
            _Stopped: then.
        """
        if seconds and not self._stopped.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), seconds)
        else:
            await asyncio.sleep(0)
        if self._stopped.is_set():
            raise _Stopped

    def _kept(self, key: str, has_waited: bool = False) -> Said | None:
        """What is kept; another process may have asked meanwhile."""
        failed = self.keeps_failures and (has_waited or not self.retry_failed or key in self._failed_again)
        return self.kept.get(key) or (self.kept.failure(key) if failed else None)

    async def _once_only(self, client, key: str, make: Made) -> Said:
        if key in self._asked:
            return await asyncio.shield(self._asked[key])
        self._asked[key] = future = asyncio.get_running_loop().create_future()
        try:
            async with self._making:
                # pictures are opened while others are asked
                request = await asyncio.to_thread(make)
            said = request if isinstance(request, Failure) else await self._alone(client, key, request)
            future.set_result(said)
            return said
        finally:
            future.cancel()
            del self._asked[key]

    async def _alone(self, client, key: str, request: Request) -> Said:
        """Ask, while no other process with the same file asks the same; where one does, what it was told is taken."""
        has_waited = False
        while not self.kept.claims.take(key):
            has_waited = True
            await self._sleep(_LOOK_AT_CLAIMS)
        try:
            return self._kept(key, has_waited) or await self._patiently(client, key, request)
        finally:
            self.kept.claims.release(key)

    async def _patiently(self, client, key: str, request: Request) -> Said:
        endpoint, reason = self.endpoint, ""
        for attempt in range(endpoint.attempts):
            spent = await self._turn(request.expected)
            try:
                return await self._once(client, key, request, spent)
            except Again as again:
                reason = str(again)
                self.retries += 1
                self._show(reason)
                wait = min(LONGEST_BACK_OFF, endpoint.back_off * 2**attempt)
                if again.wait is not None:
                    # all hear of it; they do not come back at the same moment
                    self.pace.pause(time.monotonic() + again.wait)
                    wait = again.wait + random.uniform(0, endpoint.back_off / 2)
                else:
                    wait *= random.uniform(0.5, 1)
                self._bearable(wait)
                if attempt + 1 < endpoint.attempts:
                    await self._sleep(wait)
        self.given_up += 1
        if self.given_up >= GIVEN_UP_IN_A_ROW:
            raise EndpointError(
                f"{endpoint.name}: {self.given_up} questions in a row were given up after {endpoint.attempts} attempts each; "
                f"the last: {reason}. What was answered is kept: run the same command again when the endpoint answers."
            )
        return Failure(f"{reason}, {endpoint.attempts} times")

    def _noted(self, key: str, said: Said) -> Said:
        """What was said, on the disk where it is to be kept."""
        self.given_up = self.too_many = 0
        said = self.check(said) if isinstance(said, Answer) else said
        if isinstance(said, Answer):
            self.not_taken = 0
            self._show()
            return self.kept.keep(key, said)
        if said.by_model:
            self.not_taken = 0
            if self.keeps_failures:
                self.kept.keep_failure(key, said)
                self._failed_again.add(key)
            return said
        self.not_taken += 1
        if self.not_taken >= NOT_TAKEN_IN_A_ROW:
            raise EndpointError(
                f"{self.endpoint.name}, model {self.endpoint.model}: {self.not_taken} requests in a row were not taken; the "
                f"last: {said.reason}. What was answered is kept."
            )
        return said

    async def _turn(self, expected: Usage) -> Spent:
        """Return when a request may be sent, and is counted as sent."""
        # in the order of their coming: a large one is not overtaken by small ones for ever
        async with self._sending:
            while wait := max(self.pace.wait(time.monotonic(), expected), self.spending.wait(expected)):
                if wait == float("inf"):
                    await self._sleep(_LOOK_AGAIN)
                    continue
                self._bearable(wait)
                self._show(f"at the limit, {wait:.0f} s")
                await self._sleep(min(wait, 1.0))
            await self._sleep(0)
            self.pace.sent(expected)
            return self.spending.begin(expected)

    def _bearable(self, wait: float) -> None:
        if wait > PATIENCE:
            raise EndpointError(
                f"{self.endpoint.name} asks to wait {_shown(wait)}. What was answered is kept: run the same command again then."
            )

    async def _once(self, client, key: str, request: Request, spent: Spent) -> Said:
        """One request. Its answer is kept before it counts as paid: a kill between the two loses neither.

        Raises:
            Again: if it is worth another.
        """
        import httpx

        endpoint, over = self.endpoint, _Over(self.spending, spent, request.expected)
        self.in_flight += 1
        asked = time.monotonic()
        try:
            try:
                # escapes in place of letters: halves of characters, which files may hold, pass too
                sent = client.post(endpoint.url, content=json.dumps(endpoint.body(request)), headers=endpoint.headers())
                response = await asyncio.wait_for(sent, endpoint.timeout)
            except asyncio.TimeoutError:
                raise Again(f"no answer within {endpoint.timeout:g} s") from None
            except httpx.ConnectError as error:
                over.is_free = True
                raise Again(endpoint.without_key(f"{type(error).__name__} ({error})")) from None
            except httpx.RequestError as error:
                raise Again(endpoint.without_key(f"{type(error).__name__} ({error})")) from None
            finally:
                self.in_flight -= 1
            return self._noted(key, self._read(response, over, asked))
        except Again as again:
            over.fault = _kind_of(str(again))
            raise
        finally:
            over.note()

    def _read(self, response, over: _Over, asked: float) -> Said:
        endpoint = self.endpoint
        text = endpoint.without_key(response.text)
        body = parsed(text)
        status, usage = response.status_code, usage_of(body)
        over.usage, over.is_free = usage, status != 200
        tokens = at(body, "usage", "total_tokens")
        tokens = tokens if isinstance(tokens, int) and 0 <= tokens <= MOST else 0
        self.pace.heard(response.headers, self.in_flight, tokens, time.monotonic(), usage, time.time(), asked)
        if status == 200:
            return answer_of(body, text)
        reason = f"HTTP {status}: {told(body, text)}"
        if status == 429 and at(body, "error", "code") == "insufficient_quota":
            raise EndpointError(f"{endpoint.name}, model {endpoint.model}: {reason}. What was answered is kept.")
        if status in TRANSIENT or status >= 500:
            wait = retry_after(response.headers.get("retry-after"), time.time())
            if status == 429 and wait is None:
                # it does not say how long: all rest, longer each time that it happens again
                self.too_many += 1
                self.pace.pause(time.monotonic() + min(LONGEST_BACK_OFF, endpoint.back_off * 2 ** min(self.too_many - 1, 16)))
            raise Again(reason, wait)
        if status in (401, 404) or status < 400:
            raise EndpointError(
                f"{endpoint.name}, model {endpoint.model}: {reason}. {_HELP.get(status) or _HELP[status // 100]}"
            )
        return Failure(reason, kind="not taken")

    def _show(self, reason: str = "") -> None:
        """What stands behind the bar."""
        spending = self.spending
        parts = [spending.told()] if spending.price is not None else []
        parts += [f"{self.retries} retries"] if self.retries else []
        self.bar.set_postfix_str(", ".join([*parts, reason[:60]] if reason else parts), refresh=False)


class _Stopped(Exception):
    """Nothing more is sent."""


@contextmanager
def _at_interrupt(call: Callable[[], None]) -> Iterator[None]:
    """Have the first Ctrl-C call something; the second is as it was. In a thread, which hears of none, nothing changes."""
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)

    def restore() -> None:
        if loop.remove_signal_handler(signal.SIGINT):
            signal.signal(signal.SIGINT, before)

    def first() -> None:
        restore()
        call()

    try:
        loop.add_signal_handler(signal.SIGINT, first)
    except (NotImplementedError, ValueError, RuntimeError):
        yield
        return
    try:
        yield
    finally:
        restore()


class _Over:
    """A request that is over, and what is known of what it took."""

    def __init__(self, spending: Spending, spent: Spent, expected: Usage):
        self.spending, self.spent, self.expected = spending, spent, expected
        self.usage: Usage | None = None
        self.is_free, self.fault = False, ""

    def note(self) -> None:
        self.spending.end(self.spent, self.expected, self.usage, self.fault, self.is_free)


def _shown(wait: float) -> str:
    return f"{wait:.0f} s" if wait < 1e6 else "more than ten days"


def _kind_of(reason: str) -> str:
    """Of a reason to ask again what is the same for all of its kind."""
    return reason.partition(":")[0].partition(" (")[0]


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
    1: "That is no answer of a chat endpoint: look at the address.",
    2: "That is no answer of a chat endpoint: look at the address.",
    3: "Give the address that answers itself.",
}
