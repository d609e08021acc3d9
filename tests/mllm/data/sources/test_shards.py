"""webdataset shards: what is read equals what tarfile reads; whatever strangers put inside."""

import io
import json
import os
import pickle
import tarfile
from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from PIL import Image

from pargo_mllm.data.corpus import PICTURE_LENGTH, CorpusError, Tally
from pargo_mllm.data.pictures import PictureError, decode_picture
from pargo_mllm.data.sources.shards import MAX_OPEN, ShardCorpus, write_shards
from tests.mllm.made.shard_files import PICTURE, names, pairs, picture_bytes


def record(text="what is it?", answer="a cat", **more):
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    return json.dumps({"conversations": turns, **more}).encode()


def text_of(example):
    return [part.get("text", "<image>") for message in example.conversations[0] for part in message["content"]]


TWICE, BOTH, IRREGULAR = (
    "with two members of one name, or two that could be the same",
    "whose pictures could be of two of them (a.0.jpg beside texts of a and of a.0)",
    "with a member that is no regular file (a link, a sparse file)",
)
KINDS = (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)


@pytest.fixture
def write(tmp_path):
    """Writes a tar of (name, content) with tarfile; a kind of member in place of the content makes one of that kind."""

    def make(members, name="a.tar", form=tarfile.GNU_FORMAT):
        with tarfile.open(tmp_path / name, "w", format=form) as tar:
            for path, content in members:
                member = tarfile.TarInfo(path)
                if content not in KINDS:
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                else:
                    member.type, member.linkname = content, "/etc/passwd"
                    tar.addfile(member)
        return tmp_path / name

    return make


def by_tarfile(path):
    """{key: {suffix: content}} of the runs of equal stems, from tarfile."""
    with tarfile.open(path) as tar:
        files = [(member.name, tar.extractfile(member).read()) for member in tar if member.isfile()]
    split = [(*os.path.split(name), content) for name, content in files]
    named = [(os.path.join(folder, name.split(".", 1)[0]), name.split(".", 1)[1], content) for folder, name, content in split]
    return {key: {suffix: content for _, suffix, content in run} for key, run in groupby(named, lambda member: member[0])}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["ustar", "gnu", "pax"])
def test_samples_are_what_tarfile_reads(write, form):
    long = "far/" * 25 if form == tarfile.USTAR_FORMAT else "far/" * 60
    members = [("./", tarfile.DIRTYPE), ("readme.md", b"not a sample")]
    for number in range(30):
        key = f"{long if number % 3 else './v1.0/'}{number:04d}"
        text = (
            [("txt", f" caption {number}\n".encode())]
            if number % 2
            else [("json", record(f"<image>\nwhat is {number}?", f"größe {number}"))]
        )
        picture = ("JPG" if number % 4 else "png", picture_bytes(number))
        members += [(f"{key}.{suffix}", content) for suffix, content in [picture, *text, ("cls", b"no text")]]
    shard = write(members, form=form)
    corpus, expected = ShardCorpus(shard, prompt="say"), by_tarfile(shard)
    del expected["readme"]
    assert len(corpus) == len(expected) == 30
    assert sum(corpus.parts) == 30
    reasons = {
        "folders": 1,
        "members that end with .md, which is not read": 1,
        "members that end with .cls, which is not read": 30,
    }
    assert corpus.tallies["members"] == Tally(92, 60, 0, Counter(reasons))
    seen = set()
    for number in range(30):
        example = corpus[number]
        key = next(key for key in expected if example.name.removeprefix("a.tar: ") == key[-200:])
        seen.add(key)
        files = {suffix.lower(): content for suffix, content in expected[key].items()}
        (show,) = example.pictures
        shown = show()
        with Image.open(io.BytesIO(files.get("jpg") or files["png"])) as original:
            assert np.array_equal(np.asarray(shown), np.asarray(original.convert("RGB")))
        assert [message["role"] for message in example.conversations[0]] == ["user", "assistant"]
        if "txt" in files:
            assert text_of(example) == ["<image>", "say", files["txt"].decode().strip()]
            assert corpus.length_hint(number) == PICTURE_LENGTH + len(files["txt"])
        else:
            turns = json.loads(files["json"])["conversations"]
            assert text_of(example) == ["<image>", turns[0]["value"].removeprefix("<image>\n"), turns[1]["value"]]
            assert corpus.length_hint(number) == PICTURE_LENGTH + len(files["json"])
    assert seen == set(expected)


def test_where_a_caption_comes_from(write):
    both = {"url": "x", "caption": "from json"}
    shard = write(
        [
            ("1.jpg", picture_bytes(1)),
            ("1.json", json.dumps(both).encode()),
            ("1.txt", b"from txt"),
            ("2.jpg", picture_bytes(2)),
            ("2.txt", b"\xef\xbb\xbffrom txt"),
            ("2.json", b'{"url": "x"}'),
            ("3.txt", b"ignored"),
            ("3.json", record("hello", "from turns")),
        ]
    )
    corpus = ShardCorpus(shard, prompt="say")
    assert sorted(text_of(corpus[number])[-1] for number in range(3)) == ["from json", "from turns", "from txt"]


def test_several_pictures_stand_in_the_order_of_their_numbers(write):
    text = record("<image> and <image> and <image>?", "yes")
    shard = write(
        [("1.10.png", picture_bytes(10)), ("1.2.png", picture_bytes(2)), ("1.0.png", picture_bytes(0)), ("1.json", text)]
    )
    example = ShardCorpus(shard)[0]
    assert [show().tobytes() for show in example.pictures] == [
        decode_picture(picture_bytes(n), "x").tobytes() for n in (0, 2, 10)
    ]
    assert text_of(example) == ["<image>", "and", "<image>", "and", "<image>", "?", "yes"]


def test_a_system_turn_in_a_shard(write):
    turns = [{"from": "system", "value": "be brief"}, {"from": "human", "value": "hello"}, {"from": "gpt", "value": "hi"}]
    (conversation,) = ShardCorpus(write([("1.json", json.dumps({"conversations": turns}).encode())]))[0].conversations
    assert conversation[0] == {"role": "system", "content": "be brief"}
    assert [message["role"] for message in conversation] == ["system", "user", "assistant"]


def test_a_caption_in_json_comes_before_one_in_txt(write):
    members = [("1.jpg", PICTURE), ("1.json", b'{"caption": "json"}'), ("1.txt", b"txt")]
    members += [("2.jpg", PICTURE), ("2.json", b'{"id": 2}'), ("2.txt", b"txt")]
    corpus = ShardCorpus(write(members))
    assert {text_of(corpus[index])[-1] for index in range(2) if "1" in corpus[index].name.split(": ")[1]} == {"json"}
    assert {text_of(corpus[index])[-1] for index in range(2) if "2" in corpus[index].name.split(": ")[1]} == {"txt"}


def test_a_tar_of_nothing_holds_no_sample(write):
    with pytest.raises(CorpusError, match=r"a\.tar holds no sample"):
        ShardCorpus(write([]))
    with pytest.raises(CorpusError, match=r"a\.tar holds no sample; 1 skipped: members that end with \.md"):
        ShardCorpus(write([("read.md", b"x")]))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("1.jpg", PICTURE), ("1.txt", b" \n")], "says nothing"),
        ([("1.jpg", PICTURE), ("1.txt", b"a <image> b")], "without <image>"),
        ([("1.jpg", PICTURE), ("1.txt", b"\xff\xfe")], r"\.txt is no text in UTF-8"),
        ([("1.jpg", PICTURE), ("1.json", b"{")], r"\.json cannot be read as JSON"),
        ([("1.jpg", PICTURE), ("1.json", b"")], r"\.json cannot be read as JSON"),
        ([("1.jpg", PICTURE), ("1.json", b"[" * 100_000)], r"\.json cannot be read as JSON"),
        ([("1.jpg", PICTURE), ("1.json", b'{"caption": ' + b"9" * 5000 + b"}")], r"\.json cannot be read as JSON"),
        ([("1.jpg", PICTURE), ("1.json", b"\xff")], r"\.json cannot be read as JSON"),
        ([("1.jpg", PICTURE), ("1.json", b"[]")], "is a list; it must be an object"),
        ([("1.jpg", PICTURE), ("1.json", b"null")], "is a NoneType; it must be an object"),
        ([("1.jpg", PICTURE), ("1.json", b'{"caption": ["x"]}')], "says nothing"),
        ([("1.jpg", PICTURE), ("1.json", b'{"conversations": 7}')], "has no conversations"),
        ([("1.jpg", PICTURE), ("1.json", b'{"caption": "half \\ud83d"}')], "a caption with half a character"),
        ([("1.jpg", PICTURE), ("1.json", record("<image> half \ud83d", "x"))], "a text with half a character"),
        ([("1.jpg", PICTURE), ("1.json", record("no mark", "x"))], "has 1 pictures and 0 <image>"),
        ([("1.json", record("<image>", "x", image="/etc/passwd"))], "has 0 pictures and 1 <image>"),
        ([("1.jpg", PICTURE), ("1.json", record("<image>", "x", video="a.mp4"))], "has video; only pictures and text"),
        ([("1.json", record("<video> what?", "x"))], "has a place for <video>"),
        ([("1.jpg", PICTURE), ("1.json", b'{"caption": "x", "audio": ["a.wav"]}')], "has audio; only pictures and text"),
        ([("1.jpg", PICTURE), ("1.txt", b"<video> a cat")], "has a place for <video>"),
    ],
    ids=range(20),
)
def test_damaged_records_name_shard_and_sample_and_spare_the_others(write, members, said):
    good = [("0.jpg", PICTURE), ("0.txt", b"good"), *members, ("2.jpg", PICTURE), ("2.txt", b"good")]
    corpus, problems = ShardCorpus(write(good)), []
    for number in range(3):
        try:
            assert text_of(corpus[number])[-1] == "good"
        except CorpusError as error:
            problems.append(error)
    with pytest.raises(CorpusError, match=rf"a\.tar: 1.*{said}"):
        raise problems[0]
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("1.jpg", PICTURE)], "without a caption or conversations"),
        ([("1.txt", b"x")], "with a caption and no picture"),
        ([("1.0.jpg", PICTURE), ("1.1.jpg", PICTURE), ("1.txt", b"x")], "with a caption and several pictures"),
        ([("1.jpg", PICTURE), ("1.txt", b"x"), ("1.txt", b"y")], TWICE),
        ([("1.jpg", PICTURE), ("1.txt", b"x"), ("1.caption", b"y")], TWICE),
        ([("1.jpg", PICTURE), ("1.png", PICTURE), ("1.json", record())], TWICE),
        ([("1.0.jpg", PICTURE), ("1.00.jpg", PICTURE), ("1.json", record())], TWICE),
        ([("1.0.jpg", PICTURE), ("1.0.txt", b"x"), ("1.json", record())], BOTH),
        ([(f"1.{n}.jpg", b"") for n in range(33)] + [("1.json", b"{}")], "with more than 32 pictures"),
        ([("1.jpg", tarfile.SYMTYPE), ("1.txt", b"x")], IRREGULAR),
        ([("1.jpg", tarfile.LNKTYPE), ("1.txt", b"x")], IRREGULAR),
        ([("1.jpg", PICTURE), ("1.txt", tarfile.FIFOTYPE)], IRREGULAR),
    ],
    ids=range(12),
)
def test_samples_that_lack_something_are_counted(write, members, said):
    """Names alone tell: no step of a training is spent on them, and what they are is known before it begins."""
    good = [("0.jpg", PICTURE), ("0.txt", b"good"), ("2.jpg", PICTURE), ("2.txt", b"good")]
    corpus = ShardCorpus(write([*good[:2], *members, *good[2:]]))
    assert [text_of(corpus[number])[-1] for number in range(len(corpus))] == ["good"] * 2
    samples = 2 if said == BOTH else 1
    assert corpus.tallies["samples"] == Tally(2 + samples, 2, 0, Counter({f"samples {said}": samples}))
    left = Counter({"members of samples that are not used": len(members)})
    assert corpus.tallies["members"] == Tally(4 + len(members), 4, 0, left)
    with pytest.raises(CorpusError, match=rf"a\.tar has no sample .*of {samples} samples 0 are .*{samples} skipped: samples"):
        ShardCorpus(write(members))


def test_keys_may_hold_dots(write):
    """Three of four samples vanished, and two pictures became one sample."""
    keys = ("photo.v1", "photo.v2", "img_0.0", "img_0.1", "v1.0/a.b/c.d", "plain")
    shard = write([(f"{key}.{end}", content) for key in keys for end, content in (("JPG", PICTURE), ("txt", key.encode()))])
    corpus = ShardCorpus(shard)
    assert sorted(text_of(corpus[number])[-1] for number in range(6)) == sorted(keys)
    assert not corpus.skipped
    # webdataset's samples of several pictures stay what they are
    text = record("<image><image>", "two")
    several = ShardCorpus(write([("img_0.0.jpg", PICTURE), ("img_0.1.jpg", PICTURE), ("img_0.json", text)]))
    assert (len(several), len(several[0].pictures)) == (1, 2)


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG2000", "TIFF", "WEBP"])
def test_pictures_of_other_kinds_and_other_names_of_captions(write, kind):
    if kind == "AVIF" and ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow reads no AVIF: its members are counted as not read")
    end = {"JPEG2000": "jp2"}.get(kind, kind.lower())
    shard = write([(f"1.{end}", picture_bytes(1, kind)), ("1.caption", b"one"), (f"2.{end}", PICTURE), ("2.text", b"two")])
    corpus = ShardCorpus(shard)
    assert {text_of(corpus[number])[-1]: corpus[number].pictures[0]().size for number in range(2)} == {
        "one": (8, 6),
        "two": (8, 6),
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"no picture", "cannot be read as a picture"), (b"", "cannot be read as a picture"), (PICTURE[:-30], "cannot be read")],
    ids=["text", "empty", "truncated"],
)
def test_damaged_pictures_name_shard_and_sample(write, content, said):
    example = ShardCorpus(write([("1.jpg", content), ("1.txt", b"x")]))[0]
    with pytest.raises(PictureError, match=rf"a\.tar: 1, picture 0.*{said}"):
        example.pictures[0]()


def test_a_picture_reader_that_raises_a_runtime_error():
    content = bytearray(picture_bytes(0, "DDS"))
    # the flags of the pixel format
    content[80:84] = b"\0" * 4
    with pytest.raises(PictureError, match="x cannot be read as a picture"):
        decode_picture(bytes(content), "x")


def test_written_shards_hold_the_same_bytes(tmp_path):
    samples = pairs(25)
    shards = write_shards(iter(samples), tmp_path / "new", per_shard=10)
    assert [shard.name for shard in shards] == ["000000.tar", "000001.tar", "000002.tar"]
    assert {key: files for shard in shards for key, files in by_tarfile(shard).items()} == dict(samples)
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [shard.name for shard in shards]
    corpus = ShardCorpus(tmp_path / "new")
    assert corpus.parts == [10, 10, 5]
    assert names(corpus) == {key for key, _ in samples}
    with pytest.raises(FileExistsError, match=r"000000\.tar is there already"):
        write_shards(samples, tmp_path / "new")


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "00000"])
def test_keys_that_would_be_read_otherwise_are_not_written(tmp_path, key):
    with pytest.raises(ValueError, match="must hold neither"):
        write_shards([*pairs(1), (key, {"txt": b""})], tmp_path)
    with pytest.raises(ValueError, match="suffix"):
        write_shards([("a", {"b/c": b""})], tmp_path)
    assert not list(tmp_path.glob("*.tar"))


def test_both_sides_of_a_split(tmp_path):
    write_shards(pairs(1000), tmp_path / "a", per_shard=130)
    train, test = (ShardCorpus(tmp_path / "a", split=split, held_out=0.2) for split in ("train", "test"))
    assert names(train) | names(test) == {f"{number:05d}" for number in range(1000)}
    assert not names(train) & names(test)
    # binomial, five standard deviations
    assert abs(len(test) - 200) < 64
    assert all(part > 0 for part in test.parts)
    write_shards(reversed(pairs(1000)), tmp_path / "b", per_shard=400)
    assert names(ShardCorpus(tmp_path / "b", split="test", held_out=0.2)) == names(test), "however they are sharded"
    assert names(ShardCorpus(tmp_path / "a", split="test", held_out=0.1)) < names(test)
    assert len({json.dumps(corpus.settings()) for corpus in (train, test, ShardCorpus(tmp_path / "a"))}) == 3


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"split": "validation"}, ValueError, "split='validation' is unknown"),
        ({"held_out": 1.0}, ValueError, "held_out=1.0 must be"),
        ({"held_out": float("nan")}, ValueError, "held_out=nan must be"),
        ({"split": "test"}, ValueError, "held_out=0 leaves nothing for split='test'"),
        ({"split": "test", "held_out": 1e-12}, CorpusError, "no sample for split='test'"),
        ({"prompt": "<image> say"}, ValueError, "must not hold <image>"),
    ],
)
def test_impossible_options_say_why(tmp_path, options, kind, said):
    write_shards(pairs(3), tmp_path)
    with pytest.raises(kind, match=said):
        ShardCorpus(tmp_path, **options)


def test_numbers_out_of_range_and_folders_without_shards(tmp_path):
    with pytest.raises(CorpusError, match=r"holds no \*\.tar"):
        ShardCorpus(tmp_path)
    with pytest.raises(CorpusError, match=r"missing\.tar cannot be read"):
        ShardCorpus(tmp_path / "missing.tar")
    write_shards(pairs(3), tmp_path)
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"index={index} must be from 0 to 2"):
            ShardCorpus(tmp_path)[index]


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_few_files_stay_open(tmp_path):
    write_shards(pairs(60), tmp_path, per_shard=1)
    before = open_files()
    corpus = ShardCorpus(tmp_path)
    kept = [corpus[number] for number in range(60)]
    assert len({example.pictures[0]().size for example in kept}) == 1
    # a shard and its index each
    assert open_files() - before <= 2 * MAX_OPEN
    copy = pickle.loads(pickle.dumps(corpus))
    assert len(copy._open) == 0
    assert copy[5].name == corpus[5].name
    del corpus, copy, kept
    assert open_files() <= before
