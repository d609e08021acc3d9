"""Hundreds of pictures, an endpoint that fails in every way, and a process that is killed."""

import json
import time

import pytest

from pargo_mllm.captioning.captions.asked import Asked
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.endpoint.spending import Limits
from tests.mllm.made.endpoints import serving
from tests.mllm.made.endpoints_faulty import FAULTS, Faulty
from tests.mllm.made.pictures_to_describe import SIDE, Describer, write_pictures

WINDOW, CONCURRENCY = 0.5, 8
ASKED = Asked("what is it?", "m", max_tokens=64)
# more than is foretold: the client must learn it
PROMPT = round(1.2 * ASKED.expected((SIDE, SIDE)).input)
LIMITS = Limits(requests=32, input_tokens=30 * PROMPT, output_tokens=1100, seconds=WINDOW)


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.long)])
def test_killed_three_times_every_picture_has_one_caption_and_no_window_is_exceeded(tmp_path, count):
    write_pictures(tmp_path / "pictures", count)
    where = (tmp_path / "pictures", tmp_path / "out", tmp_path / "kept.sqlite")
    runs = [Describer(*where, limits=LIMITS, retry_failed=number > 3) for number in range(5)]
    faulty = Faulty(rate=0.1 / len(FAULTS), prompt=PROMPT, longest=64)
    with serving(faulty.respond) as server:
        for number, run in enumerate(runs[:3], 1):
            run.start(server)
            while len(faulty.answered) < number * count // 5:
                time.sleep(0.01)
            run.kill()
        runs[3].start(server)
        first = runs[3].written()
        cut_off = first["skipped"].get("captions that were cut off", 0)
        assert 0 < cut_off == count - first["records"]
        asked_before = len(server.asked)
        faulty.rate = 0.0
        runs[4].start(server)
        written = runs[4].written()
        # those that were cut off are asked about again, and no other
        assert len(server.asked) - asked_before == cut_off
    assert written["records"] == count
    assert not written["skipped"]
    records = json.loads((tmp_path / "out" / "data.json").read_text())
    assert [record["image"] for record in records] == [f"{number:05d}.png" for number in range(count)]
    said = [record["conversations"][1]["value"] for record in records]
    assert len(set(said)) == count
    assert len(open_corpus(tmp_path / "out" / "data.json", 1)) == count
    assert count < 500 or set(faulty.faults) == set(FAULTS)
    limits = (LIMITS.requests, LIMITS.input_tokens, LIMITS.output_tokens)
    most = faulty.most(WINDOW)
    assert all(used <= limit for used, limit in zip(most, limits, strict=True)), (most, limits)
    how = json.loads((tmp_path / "out" / "asked.json").read_text())
    # nothing was answered twice but what was under way when the process was killed, or came too late on a busy machine
    assert len(faulty.answered) == count
    assert sum(faulty.answered.values()) - count <= 3 * CONCURRENCY + how["faults"].get("no answer within 1 s", 0)
    # what was noted to be sent and not sent is what was under way when the process was killed
    assert 0 <= how["requests"] - len(server.asked) <= 3 * CONCURRENCY
    # faults of which a killed process heard nothing are no reason to ask again
    assert sum(faulty.faults.values()) - faulty.faults["length"] + faulty.beyond - how["retries"] <= 3 * CONCURRENCY
    tokens = sum(entry[3] for entry in faulty.log)
    assert how["tokens"]["output"] <= tokens <= how["tokens"]["output"] + how["perhaps_tokens"]["output"]
    assert how["paid_usd"] == round((how["tokens"]["input"] * 2 + how["tokens"]["output"] * 8) / 1e6, 6)
