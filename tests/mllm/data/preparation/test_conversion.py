"""``pargo data convert``: a list that says what the records said, and counts the rest."""

import base64
import json

import pytest

from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.preparation.conversion import convert
from tests.mllm.made.command_line import ended
from tests.mllm.made.shard_files import picture_bytes


def chat(question, **more):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "a cat"}], **more}


def inline(number):
    url = f"data:image/png;base64,{base64.b64encode(picture_bytes(number)).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]


RECORDS = [
    chat("<image>what?", images=["0.png"], id="größe", source={"of": ["x", None]}),
    {"query": "what?", "response": "a cat", "images": ["sub/1.png"], "width": 8, "frame": "pixels"},
    {"id": 3, "instruction": "say", "input": "cat", "output": "a cat"},
    {"id": "half \ud83d", "conversations": [{"from": "human", "value": "say"}, {"from": "gpt", "value": "a cat"}]},
    chat("<image>what?", images=["0.png"], tools=["x"]),
    chat("<image>what?", images=["http://127.0.0.1/0.png"]),
    chat("what?", score=float("nan")),
    7,
]
LEFT_OUT = {
    "records with tools or calls of them": 1,
    "records whose images are addresses on the web (none is fetched; download them and name the files)": 1,
    "records with a number that JSON does not have (NaN, Infinity)": 1,
    "records without conversations: [{from, value}]": 1,
}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    (folder / "images" / "sub").mkdir(parents=True)
    (folder / "images" / "0.png").write_bytes(picture_bytes(0))
    (folder / "images" / "sub" / "1.png").write_bytes(picture_bytes(1))

    def write(records, name="records.jsonl"):
        lines = [json.dumps(record) for record in records]
        text = "\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]"
        (folder / name).write_text(text)
        return folder / name

    return write


def examples(corpus):
    return [
        (corpus[index].conversations, [show().tobytes() for show in corpus[index].pictures]) for index in range(len(corpus))
    ]


@pytest.mark.parametrize("name", ["records.json", "records.jsonl"])
@pytest.mark.parametrize("out", ["list.json", "list.jsonl"])
def test_the_list_gives_the_same_examples(source, name, out, capsys):
    file = source(RECORDS, name)
    done = ended(capsys, "data", "convert", file, "--out", file.parent / out, "--json")
    told = json.loads(done.printed)
    assert (done.status, told["read"], told["written"], told["skipped"]) == (0, 8, 4, LEFT_OUT)
    before, after = open_corpus(file, 2), open_corpus(file.parent / out, 2)
    # one number that JSON does not have is nothing that training reads
    assert before.tallies["records"].used == 5
    assert examples(after) == examples(before)[:4]
    assert not after.skipped
    text = (file.parent / out).read_text()
    records = json.loads(text) if out.endswith("json") else [json.loads(line) for line in text.splitlines()]
    assert records[0] == {
        "id": "größe",
        "image": "0.png",
        "source": {"of": ["x", None]},
        "conversations": [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "a cat"}],
    }
    assert list(records[1]) == ["image", "width", "frame", "conversations"], "what it says of boxes stays"
    assert records[3]["id"] == "half \ud83d"
    assert len(text.splitlines()) == len(records) + 2 * out.endswith("json"), "a record a line"


def test_a_list_converted_again_is_the_same(source, tmp_path):
    file = source(RECORDS)
    convert(file, file.parent / "1.json")
    convert(file.parent / "1.json", file.parent / "2.json")
    assert (file.parent / "1.json").read_bytes() == (file.parent / "2.json").read_bytes()


def test_pictures_in_records_become_files(source, tmp_path):
    broken = [{"type": "image", "base64": base64.b64encode(b"no picture").decode()}, {"type": "text", "text": "what?"}]
    file = source([chat(inline(0)), chat(inline(1)), chat(inline(0)), chat(broken)])
    done = convert(file, tmp_path / "out" / "list.json")
    assert (done.read, done.written, done.pictures) == (4, 3, 2)
    assert done.skipped == {"records that hold a picture which cannot be read": 1}
    assert not done.is_elsewhere
    lie = {path.read_bytes() for path in (tmp_path / "out" / "list-pictures").iterdir()}
    assert lie == {picture_bytes(0), picture_bytes(1)}
    before = open_corpus(file, 2)
    with pytest.raises(PictureError, match=r"a picture in records\.jsonl, byte .* cannot be read as a picture"):
        before[3].pictures[0]()
    after = examples(open_corpus(tmp_path / "out" / "list.json", 2))
    assert after == [(before[index].conversations, [before[index].pictures[0]().tobytes()]) for index in range(3)]
    assert "data:" not in (tmp_path / "out" / "list.json").read_text()


def test_pictures_that_are_named_elsewhere(source, tmp_path, capsys):
    """A list has one folder of pictures: where that is not its own, it is said; two are refused."""
    file = source([RECORDS[0]])
    done = ended(capsys, "data", "convert", file, "--out", tmp_path / "list.json")
    images = file.parent / "images"
    assert f"say --image-root {images} in training" in done.printed
    assert len(examples(open_corpus(tmp_path / "list.json", 2, image_root=images))) == 1
    both = source([RECORDS[0], chat(inline(1))], "both.jsonl")
    refused = ended(capsys, "data", "convert", both, "--out", tmp_path / "both.json")
    assert refused.status == 2
    assert "a list has one folder" in refused.said
    assert not (tmp_path / "both.json").exists()
    done = convert(both, both.parent / "both.json")
    assert done.folder == str(images / "both-pictures")
    assert examples(open_corpus(both.parent / "both.json", 2)) == examples(open_corpus(both, 2))
    absolute = source([chat("<image>what?", images=[f"{images}/0.png"])], "absolute.jsonl")
    convert(absolute, tmp_path / "absolute.json", images)
    assert len(examples(open_corpus(tmp_path / "absolute.json", 2, image_root=images))) == 1


def test_what_cannot_be_converted_is_one_line(source, tmp_path, capsys):
    file = source(RECORDS[4:])
    (tmp_path / "there.json").write_text("mine")
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere.json")
    for words, said in {
        (file, "--out", tmp_path / "list.json"): "holds no record that can be used; 1 skipped: records with tools",
        (file, "--out", tmp_path / "list.txt"): "must end with .json",
        (file, "--out", tmp_path / "there.json"): "is there already",
        (file, "--out", tmp_path / "link.json"): "is there already",
        (tmp_path, "--out", tmp_path / "list.json"): "cannot be read",
        (tmp_path / "missing.json", "--out", tmp_path / "list.json"): "cannot be read",
        (file, "--out", tmp_path / "there.json" / "list.json"): "cannot be written",
        (file, "--out", tmp_path / "list.json", "--image-root", tmp_path / "none"): "is no folder",
    }.items():
        done = ended(capsys, "data", "convert", *words)
        assert done.status == 2, words
        assert said in done.said
        assert len(done.said.strip().splitlines()) == 1
    assert (tmp_path / "there.json").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"in", "there.json", "link.json"}


def test_a_picture_in_a_record_that_is_cut_is_counted(tmp_path):
    records = [chat(inline(1)), chat(inline(2))]
    url = records[1]["messages"][0]["content"][0]["image_url"]
    content = picture_bytes(2, "JPEG")
    url["url"] = f"data:image/jpeg;base64,{base64.b64encode(content[: len(content) - 30]).decode()}"
    (tmp_path / "in.json").write_text(json.dumps(records))
    done = convert(tmp_path / "in.json", tmp_path / "out.json")
    assert (done.written, dict(done.skipped)) == (1, {"records that hold a picture which cannot be read": 1})
