"""What is written depends on pictures and answers alone."""

import json
import random
import time

import pytest

from pargo_mllm.captioning.captions import job
from pargo_mllm.data.open_corpus import open_corpus
from tests.mllm.made.endpoints import Reply, completion, serving
from tests.mllm.made.pictures_to_describe import describe_pictures, write_pictures


def respond(asked, number):
    """An answer that depends on the picture, at some time or other; of every third picture it is cut off."""
    picture = asked["messages"][0]["content"][1]["image_url"]["url"]
    chance = random.Random(picture)
    time.sleep(random.random() / 50)
    finish = "length" if chance.random() < 0.3 else "stop"
    return Reply(
        completion(f"{chance.random()} of it", finish=finish) | {"usage": {"prompt_tokens": 9, "completion_tokens": 5}}
    )


def written(folder):
    """All files of a folder but the one that says how the asking went."""
    files = (file for file in folder.rglob("*") if file.is_file() and ".work" not in file.parts and file.name != "asked.json")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.parametrize("processes", [1, pytest.param(3, marks=pytest.mark.long)])
def test_the_order_of_answers_and_the_number_of_processes_change_no_byte(tmp_path, monkeypatch, processes):
    monkeypatch.setattr(job, "PER_PIECE", 7)
    write_pictures(tmp_path / "pictures", 24)
    (tmp_path / "pictures" / "00005.png").write_bytes(b"none")
    with serving(respond) as server:
        for number, workers in enumerate((1, processes)):
            out, cache = tmp_path / f"out{number}", tmp_path / f"kept{number}.sqlite"
            describe_pictures(server.url, tmp_path / "pictures", out, cache, processes=workers)
    first, second = (written(tmp_path / f"out{number}") for number in (0, 1))
    assert first == second
    about = json.loads(first["about.json"])
    assert about["entries"] == 24 == about["records"] + sum(about["skipped"].values())
    # of each record and each failure one line
    assert len(first["failures.jsonl"].splitlines()) == 24 - about["records"] > 1
    assert len(open_corpus(tmp_path / "out0" / "data.json", 1)) == about["records"]
    # tokens of failures were paid for too
    assert about["tokens"] == {"input": 9 * 23, "output": 5 * 23, "cached": 0}
