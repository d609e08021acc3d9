"""Captions from an endpoint, each asked for once, whatever is killed meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pargo_mllm.captioning.captions.asked import Asked
from pargo_mllm.captioning.captions.checked import checked
from pargo_mllm.captioning.captions.job import Job, Known
from pargo_mllm.captioning.captions.looking import opened
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.preparation.picture_places import PicturePlaces
from pargo_mllm.endpoint import Answer, Endpoint, Failure, Request
from pargo_mllm.endpoint.kept import KeptAnswers
from pargo_mllm.endpoint.spending import BudgetReached, Spending

# below the folder of the job: of this run alone, what failed without having been paid; and what was sent
FAILED, SENT = "failed.sqlite", "sent.sqlite"


def ask(
    job: Job,
    endpoint: Endpoint,
    spending: Spending,
    *,
    retry_failed: bool = False,
    leave_out: Callable[[str], bool] = lambda key: False,
    title: str | None = "captions",
    total: int | None = None,
) -> str:
    """Ask about every picture of a job that has no caption, in this process.

    Args:
        leave_out: of a key, whether it is not asked about now.
        total: pictures, for the bar.

    Returns:
        Why it ended before all was asked; empty where it did not.

    Raises:
        EndpointError: if the endpoint cannot be asked at all.
    """
    (job.work / FAILED).unlink(missing_ok=True)
    failed = KeptAnswers(job.work / FAILED)

    def hear(key: str, said: Answer | Failure) -> None:
        if isinstance(said, Failure) and not said.by_model:
            failed.keep_failure(key, said)

    try:
        questions = _questions(job, leave_out)
        endpoint.ask_each(questions, hear, spending, check=checked, retry_failed=retry_failed, title=title, total=total)
    except BudgetReached as error:
        return str(error)
    finally:
        failed.close()
    return ""


def request_of(asked: Asked, picture: Known) -> Request | Failure:
    """The request about a picture, or why there is none."""
    try:
        content = opened(picture.entry, picture.seen, PicturePlaces(picture.piece, ()))
        return asked.request(content, picture.entry.id, picture.seen.size)
    except PictureError as error:
        return Failure(str(error), kind="picture")


def said_in(job: Job, cache: Path) -> list[Path]:
    """Files of what is known of a job's captions."""
    return [cache, job.work / FAILED]


def _questions(job: Job, leave_out: Callable[[str], bool]) -> Iterator[tuple[str, Callable[[], Request | Failure]]]:
    for picture in job.pictures():
        if not leave_out(picture.key):
            yield picture.key, partial(request_of, job.asked, picture)
