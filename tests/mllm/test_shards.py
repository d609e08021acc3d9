"""webdataset shards: what is read equals what tarfile reads; strangers' files; a million samples in flat memory."""

import gzip
import io
import json
import multiprocessing
import os
import pickle
import tarfile
import tracemalloc
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pargo_mllm.data.corpus import PICTURE_LENGTH, CorpusError
from pargo_mllm.data.order import SampleOrder
from pargo_mllm.data.pictures import PictureError, decode_picture
from pargo_mllm.data.shard_index import scan_shard
from pargo_mllm.data.shards import MAX_OPEN, ShardCorpus, write_shards


def picture_bytes(number, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def record(text="what is it?", answer="a cat", **more):
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    return json.dumps({"conversations": turns, **more}).encode()


def text_of(example):
    return [part.get("text", "<image>") for message in example.conversations[0] for part in message["content"]]


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


PICTURE = picture_bytes(0)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("1.jpg", PICTURE)], "says nothing that can be learned"),
        ([("1.txt", b"x")], "has 0 pictures; a caption is about one"),
        ([("1.0.jpg", PICTURE), ("1.1.jpg", PICTURE), ("1.txt", b"x")], "has 2 pictures; a caption is about one"),
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
        ([("1.jpg", PICTURE), ("1.json", record("no mark", "x"))], "has 1 pictures and 0 <image>"),
        ([("1.json", record("<image>", "x", image="/etc/passwd"))], "has 0 pictures and 1 <image>"),
        ([("1.jpg", PICTURE), ("1.txt", b"x"), ("1.txt", b"y")], "two members have the same name"),
        ([(f"1.{n}.jpg", b"") for n in range(33)] + [("1.txt", b"x")], "more than 32 pictures"),
        ([("1.jpg", tarfile.SYMTYPE), ("1.txt", b"x")], "a member is no regular file"),
        ([("1.jpg", tarfile.LNKTYPE), ("1.txt", b"x")], "a member is no regular file"),
        ([("1.jpg", PICTURE), ("1.txt", tarfile.FIFOTYPE)], "a member is no regular file"),
    ],
    ids=range(22),
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


def raw_tar(members, form=tarfile.GNU_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def header(name, size, kind=tarfile.REGTYPE):
    """A header with a size of our choice, negative ones as well."""
    member = tarfile.TarInfo(name)
    member.type = kind
    buffer = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    buffer[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    buffer[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(buffer))[0]
    return bytes(buffer)


WHOLE = raw_tar([("1.jpg", PICTURE), ("1.txt", b"one"), ("2.jpg", PICTURE), ("2.txt", b"two")])
END = bytes(1024)


def sparse():
    buffer = bytearray(header("1.jpg", 512, tarfile.GNUTYPE_SPARSE))
    buffer[482] = 1
    buffer[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(buffer))[0]
    return bytes(buffer)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no tar",
        b"\0" * 100,
        WHOLE[:700],
        WHOLE[:1024],
        WHOLE[: 4 * 1024],
        WHOLE[:2048] + b"x" * 512 + WHOLE[2560:],
        WHOLE[:4096] + END + WHOLE,
        WHOLE + b"\0" * 2**21,
        header("1.jpg", 2**60) + END,
        header("1.jpg", -512) + END,
        header("1.jpg", -1) + END,
        header("1.jpg", 2**86) + END,
        header("x", 2**40, tarfile.XHDTYPE) + END,
        header("x", -1024, tarfile.XHDTYPE) + END,
        header("x", 2**33, tarfile.GNUTYPE_LONGNAME) + END,
        header("x", 0, tarfile.GNUTYPE_LONGNAME) * 3000 + END,
        sparse() + END,
        gzip.compress(WHOLE),
    ],
    ids=range(19),
)
def test_damaged_shards_are_refused_and_named(tmp_path, content):
    (tmp_path / "good.tar").write_bytes(WHOLE)
    (tmp_path / "zbad.tar").write_bytes(content)
    with pytest.raises(CorpusError, match=r"zbad\.tar cannot be read as a tar shard"):
        ShardCorpus(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir() if "bad" in file.name) == ["zbad.tar"]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_of_hundreds_of_megabytes_is_not_read(tmp_path, kind):
    (tmp_path / "a.tar").write_bytes(header("x", 2**28, kind))
    os.truncate(tmp_path / "a.tar", 2**28 + 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(CorpusError, match=r"a\.tar cannot be read .*headers of a member take more than 1,048,576 bytes"):
            ShardCorpus(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize("cut", range(0, len(WHOLE) - 1024, 256))
def test_no_truncated_shard_passes(tmp_path, cut):
    (tmp_path / "a.tar").write_bytes(WHOLE[:cut])
    with_end = 4 * 1024 + 512
    if cut >= with_end:
        assert len(ShardCorpus(tmp_path)) == 2
    else:
        with pytest.raises(CorpusError, match=r"a\.tar cannot be read"):
            ShardCorpus(tmp_path)


def pairs(count, first=0):
    return [(f"{number:05d}", {"txt": f"caption {number}".encode(), "jpg": PICTURE}) for number in range(first, first + count)]


def names(corpus):
    return {corpus[number].name.split(": ")[1] for number in range(len(corpus))}


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


def test_an_index_is_made_once_and_again_when_its_shard_changes(tmp_path):
    (shard,) = write_shards(pairs(5), tmp_path)
    index = tmp_path / "000000.tar.index"
    ShardCorpus(tmp_path)
    made = index.stat().st_mtime_ns, index.stat().st_ino
    before = ShardCorpus(tmp_path).settings()
    assert (index.stat().st_mtime_ns, index.stat().st_ino) == made
    # a copy is the same content
    os.utime(shard, ns=(1, 1))
    assert ShardCorpus(tmp_path).settings() == before
    shard.unlink()
    write_shards(pairs(5, first=5), tmp_path)
    os.utime(shard, ns=(1, 1))
    changed = ShardCorpus(tmp_path)
    # as large and as old as before: this is all that can be seen without reading it
    assert names(changed) == {f"{number:05d}" for number in range(5)}
    os.utime(shard, ns=(2, 2))
    changed = ShardCorpus(tmp_path)
    assert names(changed) == {f"{number:05d}" for number in range(5, 10)}
    assert changed.settings() != before


def test_a_shard_that_changes_while_it_is_used_is_noticed(tmp_path):
    write_shards(pairs(5), tmp_path)
    corpus = ShardCorpus(tmp_path)
    os.utime(tmp_path / "000000.tar", ns=(1, 1))
    with pytest.raises(CorpusError, match=r"000000\.tar or its index has changed"):
        corpus[0]
    (tmp_path / "000000.tar").unlink()
    with pytest.raises(CorpusError, match=r"000000\.tar cannot be read"):
        corpus[0]


def as_npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        lambda rows: b"",
        lambda rows: b"\x93NUMPY",
        pickle.dumps,
        lambda rows: as_npy(np.array([os.getcwd], dtype=object), allow_pickle=True),
        lambda rows: as_npy(np.arange(30)),
        lambda rows: as_npy(rows)[:-8],
        lambda rows: as_npy(rows[:0]),
        lambda rows: as_npy(rows[1:]),
        lambda rows: as_npy(rows[["hash", "json", "txt", "pictures"]]),
        lambda rows: as_npy(rows.reshape(1, -1)),
        lambda rows: as_npy(
            rows.astype([(name, "<i4" if name == "txt" else kind, *shape) for name, kind, *shape in rows.dtype.descr])
        ),
        lambda rows: None,
    ],
    ids=range(12),
)
def test_an_index_that_is_none_is_made_anew(tmp_path, content):
    write_shards(pairs(5), tmp_path)
    corpus = ShardCorpus(tmp_path)
    index = tmp_path / "000000.tar.index"
    expected = index.read_bytes()
    damaged = content(np.load(index))
    if damaged is None:
        index.unlink()
    else:
        index.write_bytes(damaged)
    again = ShardCorpus(tmp_path)
    assert index.read_bytes() == expected
    assert names(again) == names(corpus)


@pytest.mark.parametrize("place", [(-1, 10), (600, -5), (600, 2**62), (2**62, 8), (2**63 - 1, 2**63 - 1), (9_000, 5_000)])
def test_places_that_a_stranger_wrote_lead_out_of_no_shard(tmp_path, place):
    write_shards(pairs(1), tmp_path)
    ShardCorpus(tmp_path)
    index = tmp_path / "000000.tar.index"
    rows = np.load(index)
    for field, kind in (("txt", CorpusError), ("pictures", PictureError)):
        changed = rows.copy()
        changed[field][1] = place
        index.write_bytes(as_npy(changed))
        with pytest.raises(kind, match=r"000000\.tar: 00000.*(at most|not inside)"):
            ShardCorpus(tmp_path)[0].pictures[0]()


def test_indexes_go_elsewhere_where_they_cannot_lie_beside_the_shard(tmp_path):
    for name in ("one", "two"):
        write_shards(pairs(3, first=len(name) if name == "one" else 50), tmp_path / name)
        # nothing can be renamed onto a folder
        (tmp_path / name / "000000.tar.index" / "x").mkdir(parents=True)
    with pytest.raises(CorpusError, match=r"000000\.tar cannot be written .*give an index_folder"):
        ShardCorpus(tmp_path / "one")
    one, two = (ShardCorpus(tmp_path / name, index_folder=tmp_path / "indexes") for name in ("one", "two"))
    assert names(one) == {"00003", "00004", "00005"}
    assert names(two) == {"00050", "00051", "00052"}
    assert len(list((tmp_path / "indexes").iterdir())) == 2
    assert not list(tmp_path.glob("*/.*")), "nothing is left of the attempts"


def _open_when_all_do(folder):
    BARRIERS[-1].wait()
    corpus = ShardCorpus(folder)
    return corpus.settings()["content"], corpus[7].name


BARRIERS = []


def test_ranks_that_begin_at_once_make_the_same_indexes(tmp_path):
    write_shards(pairs(60), tmp_path, per_shard=5)
    context = multiprocessing.get_context("fork")
    with context.Pool(4, BARRIERS.append, (context.Barrier(4),)) as ranks:
        said = set(ranks.map(_open_when_all_do, [tmp_path] * 4, chunksize=1))
    corpus = ShardCorpus(tmp_path)
    assert said == {(corpus.settings()["content"], corpus[7].name)}
    assert len(list(tmp_path.iterdir())) == 24, "12 shards, 12 indexes, nothing else"


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


class Names(torch.utils.data.Dataset):
    """What a worker reads at (corpus, index): the sample's name and the size of its picture."""

    def __init__(self, corpus):
        self.corpus = corpus

    def __getitem__(self, place):
        _, index = place
        example = self.corpus[index]
        return example.name, example.pictures[0]().size


def resident():
    """Bytes of memory that this process holds, mapped files included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def stream(corpus, seed, start, stop):
    """What two workers read at positions ``start`` to ``stop`` of a new order."""
    order = SampleOrder([corpus.parts], None, seed)
    positions = range(start, stop)
    loader = torch.utils.data.DataLoader(
        Names(corpus),
        batch_sampler=[
            [order[position] for position in positions[first : first + 16]] for first in range(0, len(positions), 16)
        ],
        num_workers=2,
        collate_fn=list,
        multiprocessing_context="fork",
    )
    return [item for batch in loader for item in batch]


@pytest.fixture(scope="module")
def million(tmp_path_factory):
    """A thousand shards of a thousand samples: one shard under many names, with an index each."""
    folder = tmp_path_factory.mktemp("million")
    (first,) = write_shards(pairs(1000), folder, per_shard=1000)
    ShardCorpus(folder)
    index = first.with_name("000000.tar.index").read_bytes()
    for number in range(1, 1000):
        shard = folder / f"{number:06d}.tar"
        os.link(first, shard)
        shard.with_name(f"{shard.name}.index").write_bytes(index)
    return folder


def test_a_shard_is_scanned_in_little_memory(tmp_path):
    (shard,) = write_shards(pairs(3000), tmp_path)
    tracemalloc.start()
    try:
        rows = scan_shard(shard)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows) == 3001
    # half as much again as the samples take; tarfile would keep as much for its members
    assert peak < 3000 * 1100


def test_a_million_samples_resume_in_the_middle_without_loss(million):
    """An epoch of positions, the second half of it from new objects: each sample once."""
    count, middle = 1_000_000, 437_219
    read = []
    for start, stop in ((0, middle), (middle, count)):
        order = SampleOrder([ShardCorpus(million).parts], None, 5)
        read.append(np.fromiter((order[position][1] for position in range(start, stop)), dtype=np.int64))
    assert np.array_equal(np.bincount(np.concatenate(read)), np.ones(count))


def test_a_million_samples_stream_through_workers_and_resume(million):
    corpus = ShardCorpus(million)
    straight = stream(corpus, 5, 500_000, 500_640)
    read = [name for name, _ in straight]
    assert len(set(read)) == 640
    assert {size for _, size in straight} == {(8, 6)}
    # killed after 320: new objects go on from the position
    resumed = [name for name, _ in stream(ShardCorpus(million), 5, 500_320, 500_640)]
    assert resumed == read[320:]
    order = SampleOrder([corpus.parts], None, 5)
    assert read == [corpus[order[position][1]].name for position in range(500_000, 500_640)]


def test_memory_is_flat_over_a_million_samples(million):
    """Positions of three epochs, all over the shards: memory stops growing after the first few."""
    corpus = ShardCorpus(million)
    order = SampleOrder([corpus.parts], None, 5)
    held = []
    for position in range(0, 3_000_000, 10_007):
        corpus[order[position][1]]
        held.append(resident())
    assert max(held[50:]) - held[50] < 8 * 2**20
