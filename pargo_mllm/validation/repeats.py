"""What a set says or shows twice: exactly, by hashes; nearly, by hashes that are alike where contents are."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from pargo_mllm.data.pictures import PictureError, decode_picture
from pargo_mllm.errors import UserError
from pargo_mllm.validation.samples import Sample, SamplePicture

# bytes of an exact hash
SIZE = 16
# of MinHash: numbers a text, and how many of them a band holds; words of a shingle, and of the shortest text
NUMBERS, _BAND, _SHINGLE, _SHORTEST = 64, 4, 3, 8
# share of its shingles that a text has in common with another to be near it; bits in which looks may differ, of 64
NEAR_TEXT, NEAR_LOOK = 0.8, 3
# of pictures, or texts, that share a band: more tell nothing
_MOST_ALIKE = 2000
_HEAD, _TAIL = 4096, 64


def record_hash(sample: Sample) -> bytes:
    """Of a sample's pictures and turns; zeros where training does not read it.

    A picture of a shard has no name that says anything: its size, its head and its tail stand for it.
    """
    if sample.conversation is None:
        return bytes(SIZE)
    digest = hashlib.blake2b(digest_size=SIZE)
    for picture in sample.pictures:
        digest.update(_stands_for(picture) + b"\0")
    for message in sample.conversation:
        digest.update(repr((message["role"], message["content"])).encode("utf-8", "surrogatepass"))
    return digest.digest()


def text_hash(text: str) -> bytes:
    """Of an id."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=SIZE).digest()


def _stands_for(picture: SamplePicture) -> bytes:
    if picture.place is None:
        return str(picture.file).encode("utf-8", "surrogateescape")
    try:
        with picture.opened() as (file, size):
            head = file.read(_HEAD)
            file.seek(max(0, size - _TAIL))
            return b"%d" % size + head + file.read()
    except (OSError, ValueError):
        return picture.name.encode("utf-8", "surrogatepass")


def repeated(hashes: np.ndarray) -> Iterator[tuple[int, int]]:
    """(place, place of the first one) of every hash that was there before, by place; zeros are none.

    Args:
        hashes: uint64 ``[n, 2]``.
    """
    order = np.lexsort((np.arange(len(hashes)), hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    same = np.concatenate(([False], (ordered[1:] == ordered[:-1]).all(axis=1))) & ordered.any(axis=1)
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    pairs = np.stack((order[same], order[first[same]]), axis=1)
    yield from map(tuple, pairs[np.argsort(pairs[:, 0], kind="stable")].tolist())


def check_installed() -> None:
    """See that what is near can be found.

    Raises:
        UserError: naming what is missing.
    """
    try:
        import datasketch  # noqa: F401
        import imagehash  # noqa: F401
    except ImportError as error:
        raise UserError("--near needs imagehash and datasketch: pip install 'pargo[data]'") from error


def near_hashes(sample: Sample) -> tuple[list[tuple[bytes, bytes, bytes]], np.ndarray | None]:
    """Of each picture a hash of its file's name, of its content, and of its looks, 8 bytes (empty for what cannot be read); and
    MinHash's numbers of what the sample answers, uint32 ``[NUMBERS]``, None where that is short.

    What is in no file of its own is named by its content.
    """
    return [_looks(picture) for picture in sample.pictures], _signature(" ".join(sample.answers()))


def _looks(picture: SamplePicture) -> tuple[bytes, bytes, bytes]:
    import imagehash

    try:
        with picture.opened() as (file, _):
            content = file.read()
        look = imagehash.phash(decode_picture(content, picture.name))
    except (OSError, ValueError, PictureError):
        return b"", b"", b""
    digest = hashlib.blake2b(content, digest_size=SIZE).digest()
    named = text_hash(os.path.abspath(picture.file)) if picture.is_file else digest
    return named, digest, np.packbits(look.hash.flatten()).tobytes()


def _signature(text: str) -> np.ndarray | None:
    from datasketch import MinHash

    words = re.findall(r"\w+", text.casefold())
    if len(words) < _SHORTEST:
        return None
    signature: Any = MinHash(NUMBERS, seed=1)
    signature.update_batch(
        [" ".join(words[at : at + _SHINGLE]).encode("utf-8", "surrogatepass") for at in range(len(words) - _SHINGLE + 1)]
    )
    return signature.hashvalues.astype(np.uint32)


def near_looks(looks: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(place, an earlier place, bits in which they differ) of pictures that look alike, each once.

    Args:
        looks: uint8 ``[n, 8]``. Two that differ in at most three bits have one of their four pairs of bytes in common.
    """
    best: dict[int, tuple[int, int]] = {}
    for band in range(4):
        for group in _alike(looks[:, 2 * band : 2 * band + 2]):
            bits = np.unpackbits(looks[group], axis=1)
            for at in range(1, len(group)):
                differ = (bits[:at] != bits[at]).sum(axis=1)
                closest = int(differ.argmin())
                place, before = int(group[at]), int(group[closest])
                if differ[closest] <= NEAR_LOOK and (int(differ[closest]), before) < best.get(place, (99, 0)):
                    best[place] = (int(differ[closest]), before)
    for place, (differ, before) in sorted(best.items()):
        yield place, before, differ


def near_texts(signatures: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """(place, an earlier place, about what share of shingles they have in common) of texts that nearly repeat, each once.

    Args:
        signatures: uint32 ``[n, NUMBERS]``.
    """
    best: dict[int, tuple[float, int]] = {}
    for band in range(0, NUMBERS, _BAND):
        for group in _alike(signatures[:, band : band + _BAND]):
            rows = signatures[group]
            for at in range(1, len(group)):
                shared = (rows[:at] == rows[at]).mean(axis=1)
                closest = int(shared.argmax())
                place = int(group[at])
                if shared[closest] >= NEAR_TEXT and shared[closest] > best.get(place, (0.0, 0))[0]:
                    best[place] = (float(shared[closest]), int(group[closest]))
    for place, (share, before) in sorted(best.items()):
        yield place, before, share


def _alike(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Places of rows that are equal, in their order, two or more at a time."""
    if not len(rows):
        return
    _, group, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(group.reshape(-1), kind="stable")
    for places in np.split(order, np.cumsum(counts)[:-1]):
        if len(places) > 1:
            yield places[:_MOST_ALIKE]
