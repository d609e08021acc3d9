"""The client: an endpoint's address, its key, and what was said."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from tqdm.auto import tqdm

from pargo_mllm.endpoint.addressed import Addressed
from pargo_mllm.endpoint.asking import Asking, Made
from pargo_mllm.endpoint.kept import Answer, Failure, KeptAnswers
from pargo_mllm.endpoint.request import Request
from pargo_mllm.endpoint.spending import Spending

_Same = TypeVar("_Same")


def _itself(same: _Same) -> _Same:
    return same


class Endpoint(Addressed):
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

    def ask(self, requests: Sequence[Request], title: str | None = None) -> list[Answer | Failure]:
        """Ask everything that has no answer yet. Not to be called inside a running event loop.

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
                made = ((key, partial(_itself, request)) for key, request in pending.items())
                with _bar(title, len(said) + len(pending), len(said)) as bar:
                    asyncio.run(Asking(self, kept, bar, Spending(), _itself).all(made, said.__setitem__))
        finally:
            kept.close()
        return [said[key] for key in asked]

    def ask_each(
        self,
        requests: Iterable[tuple[str, Made]],
        hear: Callable[[str, Answer | Failure], None],
        spending: Spending,
        *,
        check: Callable[[Answer], Answer | Failure] = _itself,
        retry_failed: bool = False,
        title: str | None = None,
        total: int | None = None,
    ) -> None:
        """Ask any number of questions, each made when its turn comes; nothing of them stays in memory.

        What a model did not answer (cut off, refused, empty) was paid for too: it is kept like an answer.

        Not to be called inside a running event loop (a notebook's): call it in a thread there.

        Args:
            requests: each by the key that its answer is kept under, which tells apart all that may be answered differently, and
                with what makes it, in a thread, or says why there is none.
            hear: is told each key with what was said, which is on the disk then, in the order of the answers.
            spending: what may be used.
            check: makes a failure of an answer that is of no use, before it is kept.
            retry_failed: ask again what is kept as a failure.
            title, total: of a progress bar.

        Raises:
            EndpointError: as :meth:`ask`.
            BudgetReached: if the next request could exceed the limit of cost; what was under way has been heard.
            UserError: for a request that is more than a whole limit.
        """
        kept = KeptAnswers(self.cache)
        try:
            with _bar(title, total, 0) as bar:
                asking = Asking(self, kept, bar, spending, check, keeps_failures=True, retry_failed=retry_failed)
                asyncio.run(asking.all(iter(requests), hear))
        finally:
            kept.close()

    def _digest(self, request: Request) -> str:
        asked = json.dumps([self.body(request), request.run], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()


def _bar(title: str | None, total: int | None, initial: int) -> tqdm:
    return tqdm(total=total, initial=initial, desc=title, disable=title is None, unit="answer", dynamic_ncols=True)
