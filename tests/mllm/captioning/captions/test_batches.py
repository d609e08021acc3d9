"""Batches: files that a provider takes and gives, in any order, in part, with lines that nobody wrote."""

import json

import pytest
from PIL import Image

from pargo_mllm.captioning.captions.asked import Asked
from pargo_mllm.captioning.captions.by_batch import Batches
from pargo_mllm.captioning.captions.finding import find_pictures
from pargo_mllm.captioning.captions.job import Job
from pargo_mllm.endpoint import Endpoint
from pargo_mllm.endpoint.kept import KeptAnswers
from pargo_mllm.endpoint.prices import Price
from pargo_mllm.endpoint.spending import Limits
from pargo_mllm.errors import UserError
from pargo_mllm.jobs import engine_of
from tests.mllm.made.endpoints import completion, serving
from tests.mllm.made.pictures_to_describe import describe_pictures, write_pictures

ASKED = Asked("what is it?", "m", max_tokens=64)
NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture
def batch(tmp_path):
    """Calls :func:`describe_pictures` with five pictures, of which two are equal."""
    write_pictures(tmp_path / "pictures", 5)
    Image.open(tmp_path / "pictures" / "00000.png").save(tmp_path / "pictures" / "equal.png")

    def call(**how):
        return describe_pictures(
            how.pop("url", NOWHERE), tmp_path / "pictures", tmp_path / "out", tmp_path / "kept.sqlite", **how
        )

    return call


def requests(tmp_path):
    """All that was written, by the number of its file."""
    files = sorted((tmp_path / "out" / "batch").glob("*"))
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def result(id, text="a picture", finish="stop"):
    body = completion(text, finish=finish) | {"usage": {"prompt_tokens": 1000, "completion_tokens": 100}}
    return {"id": "batch_req_1", "custom_id": id, "response": {"status_code": 200, "body": body}, "error": None}


def results(tmp_path, *lines):
    file = tmp_path / "results.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return [file]


def test_a_batch_goes_round(tmp_path, batch):
    about = batch(batch="write")
    assert about["skipped"] == {"pictures in a batch whose results were not read yet": 6}
    ((first, *others),) = requests(tmp_path)
    assert len(others) == 4
    assert (first["method"], first["url"]) == ("POST", "/v1/chat/completions")
    body = first["body"]
    assert (body["model"], body["max_tokens"]) == ("m", 64)
    assert body["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    ids = [one["custom_id"] for one in (first, *others)]
    assert len(set(ids)) == 5
    # in another order, one twice, one unknown, one cut off, one refused by the provider, and damage
    error = {"custom_id": ids[3], "response": {"status_code": 429, "body": {"error": {"code": "overloaded"}}}, "error": None}
    expired = {"custom_id": ids[4], "response": None, "error": {"code": "batch_expired", "message": "late"}}
    said = []
    files = results(
        tmp_path, result(ids[2]), "{no json", result("f" * 64), result("short"), error, result(ids[0], "zero"), expired,
        result(ids[0], "another"), result(ids[1], "half", "length"), "[1]",
        {"custom_id": ids[3], "response": {"status_code": 200}}, result(ids[1], "half \ud83d"),
    )  # fmt: skip
    about = batch(batch="read", results=files, say=said.append)
    counts = {line.partition(" ")[2]: int(line.partition(" ")[0]) for line in said[:-1]}
    assert counts == {
        "captions": 2,
        "failures: length": 1,
        "results that were there before": 2,
        "ids that are of no picture here": 2,
        "lines that are no result": 2,
        "answers that are none": 1,
        "not answered: overloaded": 1,
        "not answered: batch_expired": 1,
    }
    assert about["records"] == 3
    # at half the price of 2 and 8: three answers were paid for
    assert about["asked"]["paid_usd"] == pytest.approx(3 * (1000 * 2 + 100 * 8) / 2e6)
    # what was not answered goes into the next one, and nothing else
    batch(batch="write")
    assert [{one["custom_id"] for one in file} for file in requests(tmp_path)][1:] == [set(ids[3:])]


def test_what_a_batch_did_not_take_is_told_and_written_again_only_where_that_is_asked_for(tmp_path, batch):
    batch(batch="write")
    ids = [one["custom_id"] for one in requests(tmp_path)[0]]
    refusal = {"error": {"code": "image_too_large", "message": "the picture is too large"}}
    lines = [result(id) for id in ids[2:]]
    lines += [{"custom_id": ids[0], "response": {"status_code": 400, "body": refusal}, "error": None}]
    lines += [result(ids[1], "half \ud83d")]
    about = batch(batch="read", results=results(tmp_path, *lines))
    assert about["skipped"] == {"requests that a batch did not take": 2, "captions with characters that are none": 1} or (
        about["skipped"] == {"requests that a batch did not take": 1, "captions with characters that are none": 2}
    )
    # what was said and is of no use was paid for
    assert about["asked"]["paid_usd"] == pytest.approx(4 * (1000 * 2 + 100 * 8) / 2e6)
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert "HTTP 400: the picture is too large" in [failure["detail"] for failure in failures]
    # neither written nor asked for, and kept when batches are forgotten
    batch(batch="forget")
    batch(batch="write")
    assert len(requests(tmp_path)) == 1
    with serving(lambda asked, number: "seen") as server:
        batch(url=server.url)
        assert server.asked == []
        batch(batch="write", retry_failed=True)
        assert {one["custom_id"] for one in requests(tmp_path)[1]} == set(ids[:2])
        batch(batch="forget")
        assert batch(url=server.url, retry_failed=True)["records"] == 6
        assert len(server.asked) == 2


def test_what_lies_in_a_batch_is_asked_for_nowhere_else_until_it_is_let_go_of(tmp_path, batch):
    batch(batch="write")
    batch(batch="write")
    assert len(requests(tmp_path)) == 1
    with serving(lambda asked, number: "seen") as server:
        assert batch(url=server.url)["records"] == 0
        assert server.asked == []
        batch(batch="forget")
        assert batch(url=server.url)["records"] == 6
        assert len(server.asked) == 5


def test_files_have_a_size_and_a_kill_between_them_writes_nothing_twice(tmp_path, batch):
    how = (tmp_path / "pictures", tmp_path / "out", tmp_path / "kept.sqlite")
    endpoint, kept = Endpoint(NOWHERE, "m", how[2]), KeptAnswers(how[2])
    with Job(how[1], find_pictures(how[0]), ASKED, how[0]).begun(engine_of("local", 1)) as job, Batches(job) as batches:
        assert len(batches.write(endpoint, kept, False, max_lines=2)) == 3
        written = requests(tmp_path)
        assert [len(file) for file in written] == [2, 2, 1]
        # killed when a file was noted and not yet shown, and when the next one was not noted
        (tmp_path / "out" / "batch" / "requests-000001.jsonl").rename(job.work / "requests-000001.jsonl")
        (job.work / "requests-000003.jsonl").write_text("half")
        assert batches.write(endpoint, kept, False, max_lines=2) == []
        assert requests(tmp_path) == written
        batches.forget()
        longest = max(len(json.dumps(one)) for file in written for one in file) + 1
        files = batches.write(endpoint, kept, False, max_bytes=2 * longest)
        assert all(file.stat().st_size <= 2 * longest for file in files)
        batches.forget()
        with pytest.raises(UserError, match="--max-side"):
            batches.write(endpoint, kept, False, max_bytes=longest // 2)
    kept.close()


def test_a_batch_that_could_cost_too_much_is_not_written(tmp_path, batch):
    most = 5 * Price(2.0, 8.0).of(ASKED.expected((32, 32))) / 2
    with pytest.raises(UserError, match="more than --max-cost"):
        batch(batch="write", limits=Limits(cost=0.99 * most))
    assert not (tmp_path / "out" / "batch").exists()
    batch(batch="write", limits=Limits(cost=1.01 * most))
    assert len(requests(tmp_path)) == 1
