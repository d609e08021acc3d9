"""Captions from a provider's batches: requests are written to files, which the user uploads, and results are read from files.

What lies in a batch is noted, so that it is neither written nor asked for a second time before its result is read.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm.auto import tqdm

from pargo_mllm.captioning.captions.asked import CaptionError
from pargo_mllm.captioning.captions.batch_files import MAX_BYTES, MAX_LINES, NOT_TAKEN, read_results, request_line
from pargo_mllm.captioning.captions.by_endpoint import request_of
from pargo_mllm.captioning.captions.checked import checked
from pargo_mllm.captioning.captions.job import Job, said_of
from pargo_mllm.endpoint import Answer, Endpoint, Failure
from pargo_mllm.endpoint.kept import KeptAnswers
from pargo_mllm.endpoint.spending import Spending
from pargo_mllm.files import sync

# below the folder of the job: keys of what lies in batches
WAITING = "batches.sqlite"
FOLDER = "batch"
# the mark of what lies in a batch
LIES = "batch"
UNKNOWN, TWICE = "ids that are of no picture here", "results that were there before"


class Batches:
    """The batches of a job. As a context manager it closes its file."""

    def __init__(self, job: Job):
        self.job, self.file = job, job.work / WAITING
        self._marks = KeptAnswers(self.file)

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self._marks.close()

    def holds(self, key: str) -> bool:
        """Whether a request lies in a batch whose result was not read yet."""
        mark = self._marks.failure(key)
        return mark is not None and mark.kind == LIES

    def refused(self, key: str) -> bool:
        """Whether a batch did not take a request, which was not written again since."""
        mark = self._marks.failure(key)
        return mark is not None and mark.kind == NOT_TAKEN

    def forget(self) -> int:
        """Let all that lies in batches be asked for again: they were given up. Returns how many."""
        return self._marks.forget_failures(LIES)

    def write(
        self, endpoint: Endpoint, kept: KeptAnswers, retry_failed: bool, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES
    ) -> list[Path]:
        """Write what has no answer, and lies in no batch, as files to upload.

        Args:
            max_lines, max_bytes: of a file.

        Returns:
            The files, in ``OUT/batch``.

        Raises:
            CaptionError: for a request that is larger than a file may be.
        """
        folder = self.job.out / FOLDER
        folder.mkdir(exist_ok=True)
        self._mend(folder)
        written: list[Path] = []
        lines: dict[str, bytes] = {}
        size = 0
        with tqdm(desc="writing batches", unit="request", delay=1, dynamic_ncols=True) as bar:
            for key, line in self._lines(endpoint, kept, retry_failed, lines):
                if len(line) > max_bytes:
                    raise CaptionError(f"a request has {len(line):,} bytes, a file at most {max_bytes:,}: give a --max-side.")
                if lines and (len(lines) == max_lines or size + len(line) > max_bytes):
                    written.append(self._put(folder, lines))
                    size = 0
                lines[key] = line
                size += len(line)
                bar.update()
            if lines:
                written.append(self._put(folder, lines))
        return written

    def read(self, files: Iterable[Path], kept: KeptAnswers, spending: Spending) -> Counter[str]:
        """Keep what files of results say. Returns how many lines there are of each kind."""
        known = array("Q", sorted(int(picture.key[:16], 16) for picture in self.job.pictures()))
        counts: Counter[str] = Counter()
        for file in files:
            for result in tqdm(read_results(file), desc=f"reading {file.name}", unit="result", delay=1, dynamic_ncols=True):
                if result.key is None:
                    counts[result.fault] += 1
                elif not _is_in(known, result.key):
                    counts[UNKNOWN] += 1
                else:
                    counts[self._heard(result.key, result.said, result.fault, kept, spending)] += 1
        return counts

    def _heard(self, key: str, said: Answer | Failure | None, fault: str, kept: KeptAnswers, spending: Spending) -> str:
        """Keep a result; returns of which kind it is."""
        waited = self.holds(key)
        if said is None:
            self._marks.forget_failure(key)
            return fault
        if kept.get(key) is not None or (not waited and isinstance(said, Failure) and kept.failure(key) is not None):
            self._marks.forget_failure(key)
            return TWICE
        if isinstance(said, Failure) and said.kind == NOT_TAKEN:
            self._marks.keep_failure(key, said)
            return fault
        said = checked(said) if isinstance(said, Answer) else said
        # a kill between the two counts a result twice, never not at all
        if said.usage is not None:
            spending.batch(said.usage)
        if isinstance(said, Answer):
            kept.keep(key, said)
        else:
            kept.keep_failure(key, said)
        self._marks.forget_failure(key)
        return "captions" if isinstance(said, Answer) else f"failures: {said.kind}"

    def _lines(
        self, endpoint: Endpoint, kept: KeptAnswers, retry_failed: bool, under_way: dict[str, bytes]
    ) -> Iterator[tuple[str, bytes]]:
        for picture in self.job.pictures():
            said = said_of(picture.key, [kept])
            if isinstance(said, Answer) or (said is not None and not retry_failed):
                continue
            if self.refused(picture.key) and not retry_failed:
                continue
            if picture.key in under_way or self.holds(picture.key):
                continue
            request = request_of(self.job.asked, picture)
            # it is told when the records are written
            if not isinstance(request, Failure):
                yield picture.key, request_line(picture.key, endpoint.body(request))

    def _put(self, folder: Path, lines: dict[str, bytes]) -> Path:
        """A file of requests. It is complete, then noted, then where the user finds it."""
        number = 1 + max((int(file.stem.rpartition("-")[2]) for file in self._named(folder)), default=-1)
        aside = self.job.work / f"requests-{number:06d}.jsonl"
        with open(aside, "wb") as file:
            file.writelines(lines.values())
        sync(aside)
        self._marks.keep_failures((key, Failure(aside.name, kind=LIES)) for key in lines)
        lines.clear()
        return self._show(folder, aside)

    def _show(self, folder: Path, aside: Path) -> Path:
        file = folder / aside.name
        os.replace(aside, file)
        sync(folder)
        return file

    def _mend(self, folder: Path) -> None:
        """What a kill left: a file that was noted is shown, one that was not is written anew."""
        for aside in self._named(self.job.work):
            if self._marks.has_failure_of(aside.name):
                self._show(folder, aside)
            else:
                aside.unlink()

    @staticmethod
    def _named(folder: Path) -> list[Path]:
        return sorted(file for file in folder.glob("requests-*.jsonl") if file.stem[len("requests-") :].isdecimal())


def _is_in(known: array, key: str) -> bool:
    try:
        number = int(key[:16], 16) if len(key) == 64 else -1
    except ValueError:
        return False
    place = bisect_left(known, number)
    return place < len(known) and known[place] == number
