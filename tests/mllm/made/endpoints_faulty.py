"""An endpoint that fails in every way, and keeps a log of what it counts, by its own clock."""

import random
import threading
import time
from dataclasses import dataclass, field

from tests.mllm.made.endpoints import Reply, completion

FAULTS = ("broken", "stalls", "cut", "too many", "too many, no word", "length")


@dataclass
class Faulty:
    """Answers pictures; ``respond`` is for :func:`tests.mllm.made.endpoints.serving`.

    Args:
        rate: the share of requests with each of :data:`FAULTS`.
        prompt: tokens that it makes of a prompt.
        longest: tokens of its longest answer.
        burst, refills: its own limit, which its headers tell: so many requests, filled up after so many seconds.
        stalls: seconds.
    """

    rate: float
    prompt: int
    longest: int
    burst: int = 40
    refills: float = 0.25
    stalls: float = 1.3
    # (when, requests, tokens of the prompt, tokens of the answer), as they are counted
    log: list = field(default_factory=list)
    # pictures by how often they were answered well, and whole
    answered: dict = field(default_factory=dict)
    faults: dict = field(default_factory=dict)

    def __post_init__(self):
        self.lock = threading.Lock()
        self.chance = random.Random(0)
        self.window, self.left, self.beyond = 0.0, self.burst, 0

    def respond(self, asked, number):
        """What it sends."""
        picture = asked["messages"][0]["content"][1]["image_url"]["url"]
        with self.lock:
            self.log.append((time.monotonic(), 1, self.prompt, 0))
            drawn, took = self.chance.random(), self.chance.randint(1, self.longest)
            fault = next((name for place, name in enumerate(FAULTS) if drawn < self.rate * (place + 1)), "")
            headers = self._count()
            if headers is None:
                self.beyond += 1
                return Reply(status=429, headers={"Retry-After": "0.1"})
            if fault:
                self.faults[fault] = self.faults.get(fault, 0) + 1
        if fault == "broken":
            return Reply(status=500, headers=headers)
        if fault == "stalls":
            time.sleep(self.stalls)
            return Reply(hangs_up=True)
        if fault.startswith("too many"):
            return Reply(status=429, headers=headers | ({} if "no word" in fault else {"Retry-After": "0.05"}))
        time.sleep(0.01)
        took = self.longest if fault == "length" else took
        body = completion(f"what {picture[-24:]} shows", finish="length" if fault == "length" else "stop")
        body["usage"] = {"prompt_tokens": self.prompt, "completion_tokens": took, "total_tokens": self.prompt + took}
        with self.lock:
            self.log.append((time.monotonic(), 0, 0, took))
            if not fault:
                self.answered[picture] = self.answered.get(picture, 0) + 1
        return Reply(body, headers=headers, cut=fault == "cut")

    def _count(self):
        """The headers of its own limit; None beyond it."""
        now = time.monotonic()
        if now >= self.window:
            self.window, self.left = now + self.refills, self.burst
        if not self.left:
            return None
        self.left -= 1
        return {
            "x-ratelimit-limit-requests": str(self.burst),
            "x-ratelimit-remaining-requests": str(self.left),
            "x-ratelimit-reset-requests": f"{(self.window - now) * 1000:.0f}ms",
        }

    def most(self, seconds):
        """The most requests, tokens of prompts and of answers in any window that is so long."""
        entries = sorted(self.log)
        most, sums, first = [0, 0, 0], [0, 0, 0], 0
        for when, *amounts in entries:
            sums = [a + b for a, b in zip(sums, amounts, strict=True)]
            while entries[first][0] <= when - seconds:
                sums = [a - b for a, b in zip(sums, entries[first][1:], strict=True)]
                first += 1
            most = [max(pair) for pair in zip(most, sums, strict=True)]
        return tuple(most)
