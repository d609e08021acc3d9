"""``pargo caption`` as a user types it."""

import json

import pytest
from PIL import Image

from tests.mllm.made.command_line import ended
from tests.mllm.made.endpoints import Reply, completion, serving
from tests.mllm.made.pictures_to_describe import write_pictures

SECRET = "sk-very-secret-0123456789"


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_pictures(tmp_path / "pictures", 4)
    (tmp_path / "prices.json").write_text('{"m": {"input": 2, "output": 8}}')
    return tmp_path


def caption(capsys, tmp_path, *words):
    return ended(capsys, "caption", tmp_path / "pictures", "--out", tmp_path / "out", *words)


def respond(asked, number):
    if number == 1:
        return Reply({"error": {"message": f"not with {SECRET}"}}, status=400)
    return Reply(completion(f"a picture, {SECRET}") | {"usage": {"prompt_tokens": 1000, "completion_tokens": 100}})


def test_from_pictures_to_training_data(pictures, capsys):
    with serving(respond) as server:
        words = ("--endpoint", f"{server.url}?key={SECRET}", "--model", "m", "--prices", pictures / "prices.json")
        estimated = caption(capsys, pictures, *words, "--estimate")
        assert (estimated.status, estimated.printed, server.asked) == (0, "", [])
        assert "4 pictures, 0 described, 4 to ask about" in estimated.said
        assert "at most 4,096" in estimated.said
        done = caption(capsys, pictures, *words, "--json", "--concurrency", 1)
        assert done.status == 0
        about = json.loads(done.printed)
        assert (about["records"], about["kind"]) == (3, "detailed captions")
        assert about["skipped"] == {"requests that the endpoint did not take": 1}
        assert about["paid_usd"] == pytest.approx(3 * 2800e-6)
        again = caption(capsys, pictures, *words)
        assert len(server.asked) == 5
        assert "of 4 entries 4 have a caption" in again.printed
        assert "5 requests" in again.printed
        finished = caption(capsys, pictures, *words)
        assert finished.status == 2
        assert "is finished" in finished.said
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    assert not (pictures / "out" / ".work").exists()
    # the key is said back by the endpoint in every place, and stands nowhere
    written = [file.read_bytes() for file in pictures.rglob("*") if file.is_file()]
    assert not any(SECRET.encode() in content for content in written)
    assert not any(SECRET in ended.printed + ended.said for ended in (estimated, done, again, finished))


def test_a_limit_of_cost_is_an_exit_status_and_what_was_paid_for_is_written(pictures, capsys):
    with serving(lambda asked, number: respond(asked, 0)) as server:
        words = ("--endpoint", server.url, "--model", "m", "--prices", pictures / "prices.json", "--max-tokens", 100)
        stopped = caption(capsys, pictures, *words, "--max-cost", 0.007)
        assert stopped.status == 2
        assert "limit of 0.007 USD" in stopped.said
        assert len(json.loads((pictures / "out" / "data.json").read_text())) == len(server.asked) == 2
        assert caption(capsys, pictures, *words, "--max-cost", 1).status == 0
        assert len(json.loads((pictures / "out" / "data.json").read_text())) == len(server.asked) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "either --endpoint URL with --model NAME, or --local DIR"),
        (["--endpoint", "http://h/v1", "--local", "d"], "either --endpoint"),
        (["--endpoint", "http://h/v1"], "needs --model"),
        (["--endpoint", "h", "--model", "m"], "one looks like"),
        (["--endpoint", "http://h/v1", "--model", "m", "--max-cost", "1"], "--max-cost needs --prices"),
        (["--endpoint", "http://h/v1", "--model", "m", "--batch", "read"], "belong together"),
        (["--endpoint", "http://h/v1", "--model", "m", "--results", "f"], "belong together"),
        (["--endpoint", "http://h/v1", "--model", "m", "--limit-output-tokens", "9"], "more than --limit-output-tokens"),
        (["--local", "d", "--limit-requests", "9"], "--limit-requests is of an endpoint"),
        (["--local", "nowhere"], "nowhere"),
        (["--endpoint", "http://h/v1", "--model", "m", "--prices", "nowhere.json"], "nowhere.json cannot be read as prices"),
        (["--endpoint", "http://h/v1", "--model", "m", "--image-root", "x"], "--image-root is for lists"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_done(pictures, capsys, words, says):
    said = caption(capsys, pictures, *words)
    assert said.status == 2
    assert says in said.said
    assert said.said.count("\n") == 1
    assert not (pictures / "out").exists()


def test_another_question_needs_another_folder(pictures, capsys):
    with serving(lambda asked, number: Reply(completion("half", finish="length"))) as server:
        words = ("--endpoint", server.url, "--model", "m")
        assert caption(capsys, pictures, *words).status == 0
        said = caption(capsys, pictures, *words, "--max-side", 512)
        assert said.status == 2
        assert "begun with another max_side" in said.said
        assert caption(capsys, pictures, *words, "--max-tokens", 9).status == 0


def test_a_folder_with_somebody_elses_work_is_left_alone(pictures, capsys):
    out = pictures / "out"
    (out / ".work").mkdir(parents=True)
    (out / "thesis.txt").write_text("mine")
    for settings in (None, '{"job": "filter"}'):
        if settings:
            (out / ".work" / "settings.json").write_text(settings)
        said = caption(capsys, pictures, "--endpoint", "http://127.0.0.1:9", "--model", "m")
        assert (said.status, "holds something else" in said.said) == (2, True), said.said
    assert sorted(path.name for path in out.iterdir()) == [".work", "thesis.txt"]


def test_no_picture_is_taken_for_another_that_came_in_its_place(pictures, capsys):
    """It was looked at, and is not what it was when its turn comes."""
    with serving(lambda asked, number: Reply(completion("half", finish="length"))) as server:
        words = ("--endpoint", server.url, "--model", "m", "--copy")
        caption(capsys, pictures, *words)
        file = pictures / "pictures" / "00001.png"
        file.unlink()
        Image.new("RGB", (9, 9), "blue").save(file)
        server.respond = lambda asked, number: "whole"
        caption(capsys, pictures, *words, "--retry-failed")
    records = json.loads((pictures / "out" / "data.json").read_text())
    assert [record["id"] for record in records] == ["00000.png", "00002.png", "00003.png"]
    (failure,) = [json.loads(line) for line in (pictures / "out" / "failures.jsonl").read_text().splitlines()]
    assert failure["id"] == "00001.png"


def test_a_picture_that_is_thirty_times_dearer_than_the_rule_keeps_the_limit_and_the_estimate_learns_it(pictures, capsys):
    used = {"prompt_tokens": 30_000, "completion_tokens": 1_500}
    with serving(lambda asked, number: Reply(completion("a picture") | {"usage": used})) as server:
        words = ("--endpoint", server.url, "--model", "m", "--prices", pictures / "prices.json", "--max-cost", 0.2)
        stopped = caption(capsys, pictures, *words)
        # 0.072 USD each: of a second it is not known that it fits, of a third it is known that it does not
        assert (stopped.status, len(server.asked)) == (2, 2)
        assert "0.1440 USD, and the next request may cost 0.0792: more than the limit of 0.2 USD" in stopped.said
        estimated = caption(capsys, pictures, *words, "--estimate")
    assert "2 to ask about: about 60,000 tokens of prompts (at most 66,000), 3,000 of answers (at most 3,300)" in estimated.said
    assert "about 0.14 USD, at most 0.16" in estimated.said


def test_an_absurd_number_of_tokens_is_not_booked(pictures, capsys):
    absurd = {"prompt_tokens": 10**30, "completion_tokens": 10**30}
    with serving(lambda asked, number: Reply(completion("a picture") | {"usage": absurd})) as server:
        words = ("--endpoint", server.url, "--model", "m", "--prices", pictures / "prices.json", "--max-cost", 1)
        done = caption(capsys, pictures, *words, "--json")
    about = json.loads(done.printed)
    assert (about["records"], about["asked"]["without_usage"], about["asked"]["paid_usd"]) == (4, 4, 0)
    assert 0 < about["asked"]["perhaps_usd"] < 0.1


def test_what_is_no_caption_is_paid_for_once_and_asked_for_again_with_retry_failed_alone(pictures, capsys):
    said = ["a sign says <image>", "nul \0 inside", "\x1b[31mred", "bad \ufffd"]
    with serving(lambda asked, number: Reply(completion(said[number]))) as server:
        words = ("--endpoint", server.url, "--model", "m", "--json")
        first = json.loads(caption(capsys, pictures, *words).printed)
        assert first["skipped"] == {
            "captions with characters that are none": 3,
            "captions that hold <image>, where nothing but a picture may stand": 1,
        }
        assert caption(capsys, pictures, *words).status == 0
        assert len(server.asked) == 4
        server.respond = lambda asked, number: "whole\tand\n\ngood"
        again = json.loads(caption(capsys, pictures, *words, "--retry-failed").printed)
    assert (again["records"], len(server.asked)) == (4, 8)


def test_what_is_written_is_clean_whatever_the_pictures_are(tmp_path, capsys, monkeypatch):
    """Names that do not say what a picture is, pictures of several frames, and links that lead out."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_pictures(tmp_path / "pictures", 2)
    write_pictures(tmp_path / "private", 3)
    folder = tmp_path / "pictures"
    (folder / "00001.png").rename(folder / "named.jpg")
    (folder / "named.png").symlink_to("00000.png")
    (folder / "secret.png").symlink_to(tmp_path / "private" / "00002.png")
    frames = [Image.new("L", (40, 40), shade) for shade in (0, 99)]
    frames[0].save(folder / "moves.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "still.gif")
    with serving(lambda asked, number: "a good caption of it") as server:
        done = caption(capsys, tmp_path, "--endpoint", server.url, "--model", "m", "--json")
    about = json.loads(done.printed)
    assert about["skipped"] == {"pictures of several frames": 1, "pictures that are links out of the folder": 1}
    assert len(server.asked) == 3
    names = [record["image"] for record in json.loads((tmp_path / "out" / "data.json").read_text())]
    assert [name for name in names if "-" not in name] == ["00000.png", "named.png", "still.gif"]
    assert [name[:6] + name[-4:] for name in names if "-" in name] == ["named-.png"]
    checked = ended(capsys, "validate", tmp_path / "out", "--json")
    assert (checked.status, json.loads(checked.printed)["findings"]) == (0, [])
