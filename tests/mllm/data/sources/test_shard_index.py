"""Indexes of shards: damaged tars are refused; an index is made once, anew when it is stale, by several ranks at once."""

import gzip
import io
import multiprocessing
import os
import pickle
import tarfile
import tracemalloc

import numpy as np
import pytest

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.sources.shard_index import content_hash, scan_shard
from pargo_mllm.data.sources.shards import ShardCorpus, write_shards
from tests.mllm.made.shard_files import PICTURE, names, pairs


def raw_tar(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
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


def scan_peak(shard, members):
    shard.write_bytes(header("1.cls", 0) * members + END)
    tracemalloc.start()
    try:
        rows = scan_shard(shard)
        assert rows["json"][1:, 0].tolist() == [members], "no row of a sample, and one that counts what none of them is part of"
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_scan_keeps_no_members(tmp_path):
    """tarfile would keep about 400 bytes of each."""
    few, many = (scan_peak(tmp_path / "a.tar", members) for members in (100, 2100))
    assert many - few < 2000 * 100


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


def of_version(rows, version):
    """An index by other rules, for the same shard."""
    rows[0]["txt"][0] = version
    return rows


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
        lambda rows: as_npy(rows)[:-20] + b"x" * 20,
        lambda rows: as_npy(of_version(rows, 1)),
        lambda rows: None,
    ],
    ids=range(14),
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
        changed[0]["hash"] = content_hash(changed)
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
