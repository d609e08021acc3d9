"""The records of whatever is filtered: what each says of which picture, and what is written of one that is kept."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from abc import ABC, abstractmethod
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pargo_mllm.data.corpus import Conversation, Corpus, CorpusError, shown
from pargo_mllm.data.open_corpus import is_list, open_corpus
from pargo_mllm.data.pictures import load_picture
from pargo_mllm.data.pixels import BROKEN
from pargo_mllm.data.preparation.entries import turns
from pargo_mllm.data.preparation.laying import add_member
from pargo_mllm.data.preparation.picture_places import suffix_of
from pargo_mllm.data.preparation.run import LIST
from pargo_mllm.data.sources.llava import DATA, LlavaCorpus
from pargo_mllm.data.sources.opening import named_file
from pargo_mllm.data.sources.photographs_folder import CAPTION_PROMPT, PhotographCorpus
from pargo_mllm.data.sources.shard_index import shard_samples
from pargo_mllm.data.sources.shard_samples import LeftOut, Sample
from pargo_mllm.data.sources.shards import RawSample, ShardCorpus


@dataclass(frozen=True)
class Record:
    """What one record says.

    Args:
        id: its own, or its place in the data.
        pictures: names of its pictures.
        text: its answers, a line's end between them.
        open: the RGB picture, where there is one; it raises :class:`pargo_mllm.data.pictures.PictureError`.
        damage: what keeps it from being read, where something does; it has neither picture nor text then.
    """

    id: str
    pictures: tuple[str, ...]
    text: str
    open: Callable[[], Image.Image] | None = None
    damage: str | None = None


class Records(ABC):
    """Records by number.

    Attributes:
        entries: how many the data hold, those among them that are no usable record.
        skipped: how many of those there are, by reason.
        content: digest of what they say.
    """

    entries: int
    skipped: dict[str, int]
    content: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Record: ...

    def left_out(self) -> Iterator[dict[str, Any]]:
        """What is known of each of the ``skipped``: where it stands, its id, why it is none."""
        for reason, count in self.skipped.items():
            yield from ({"why": reason} for _ in range(count))


class ListRecords(Records):
    """Records that are kept as a list with pictures beside it."""

    @abstractmethod
    def line(self, index: int) -> bytes:
        """A record as one line of JSON."""

    @abstractmethod
    def contents(self, index: int) -> list[tuple[str, Path | bytes]]:
        """Its pictures, each with its name below ``images/``; not those that the record holds itself."""


class LlavaRecords(ListRecords):
    """Of a LLaVA list: what is kept is kept to the letter."""

    def __init__(self, corpus: LlavaCorpus):
        self.corpus = corpus
        tally = corpus.tallies["records"]
        self.entries, self.skipped = tally.entries, dict(tally.skipped)
        self.content = _digest(corpus.settings())

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> Record:
        example = self.corpus[index]
        raw = self.corpus.raw(index)
        id = str(raw.value.get("id", index))
        return Record(id, tuple(raw.names), _answers(example.conversations[0]), next(iter(example.pictures), None))

    def left_out(self) -> Iterator[dict[str, Any]]:
        """See :class:`Records`."""
        if self.skipped:
            for left in self.corpus.left_out():
                id = None if left.id is None else shown(left.id)
                yield {"entry": left.number, "byte": left.start, "id": id, "why": left.reason, "detail": left.detail}

    def line(self, index: int) -> bytes:
        """See :class:`ListRecords`."""
        raw = self.corpus.raw(index)
        text = raw.text.removeprefix(BOM_UTF8)
        if any(name.startswith("/") for name in raw.names):
            return self._relative(json.loads(text))
        # inside of texts JSON has no line's end as it is
        return text.strip().replace(b"\r", b" ").replace(b"\n", b" ")

    def contents(self, index: int) -> list[tuple[str, Path | bytes]]:
        """See :class:`ListRecords`."""
        names = [name for name in self.corpus.raw(index).names if not name.startswith(DATA)]
        return [(self._below(name), named_file(self.corpus.images, name)) for name in names]

    def _relative(self, record: dict[str, Any]) -> bytes:
        for key in ("image", "images"):
            if isinstance(record.get(key), str):
                record[key] = self._below(record[key])
            elif isinstance(record.get(key), list):
                record[key] = list(map(self._below, record[key]))
        return json.dumps(record).encode()

    def _below(self, name: str) -> str:
        return str(Path(name).relative_to(self.corpus.images.absolute())) if name.startswith("/") else name


class CaptionRecords(ListRecords):
    """Captions, each a record of its own: those of a COCO-style folder, and of generated scenes."""

    def __init__(self, said: Sequence[tuple[str, str, str, str, Callable[[], Path | bytes]]], content: str):
        self._said, self.entries, self.skipped, self.content = said, len(said), {}, content

    @classmethod
    def of_folder(cls, corpus: PhotographCorpus) -> CaptionRecords:
        """All photographs of a folder: those too that training holds out."""
        said = [
            (f"{image.name}#{number}", image.name, CAPTION_PROMPT, caption, lambda path=image.path: path)
            for image in corpus.folder.folder.images
            for number, caption in enumerate(image.captions)
        ]
        told = cls(said, _digest(corpus.folder.settings()))
        tally = corpus.folder.folder.tallies.get("captions")
        if tally is not None:
            told.entries, told.skipped = len(said) + sum(tally.skipped.values()), dict(tally.skipped)
        return told

    @classmethod
    def of_corpus(cls, corpus: Corpus) -> CaptionRecords:
        """Of pictures that are files nowhere."""
        said = []
        for index in range(len(corpus)):
            example = corpus[index]
            for number, conversation in enumerate(example.conversations):
                prompt = next(part["text"] for part in conversation[0]["content"] if part["type"] == "text")
                draw = lambda index=index: _png(corpus[index].pictures[0]())  # noqa: E731
                said.append((f"{index}#{number}", f"{index:06d}.png", prompt, _answers(conversation), draw))
        return cls(said, _digest(corpus.settings()))

    def __len__(self) -> int:
        return len(self._said)

    def __getitem__(self, index: int) -> Record:
        id, name, _, caption, content = self._said[index]
        return Record(id, (name,), caption, lambda: load_picture(content(), name))

    def line(self, index: int) -> bytes:
        """See :class:`ListRecords`."""
        id, name, prompt, caption, _ = self._said[index]
        return json.dumps({"id": id, "image": name, "conversations": turns([(prompt, caption)])}).encode()

    def contents(self, index: int) -> list[tuple[str, Path | bytes]]:
        """See :class:`ListRecords`."""
        return [(self._said[index][1], self._said[index][4]())]


class ShardRecords(Records):
    """Of webdataset shards: each shard keeps its name and the order of its samples."""

    def __init__(self, corpus: ShardCorpus):
        self.corpus = corpus
        tally = corpus.tallies["samples"]
        self.entries, self.skipped = tally.entries, dict(tally.skipped)
        self.content = _digest(corpus.settings())

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> Record:
        key = self.corpus.key(index)
        try:
            example = self.corpus[index]
        except CorpusError as error:
            return Record(key, (), "", damage=str(error))
        shard, _, key = example.name.partition(": ")
        names = tuple(f"{shard}/{key}{f'.{n}' * (len(example.pictures) > 1)}" for n in range(len(example.pictures)))
        return Record(key, names, _answers(example.conversations[0]), next(iter(example.pictures), None))

    def left_out(self) -> Iterator[dict[str, Any]]:
        """See :class:`Records`."""
        if not self.skipped:
            return
        for shard in self.corpus.shards:
            entry = 0
            for found in shard_samples(shard):
                if isinstance(found, LeftOut) and found.is_sample:
                    yield {"shard": shown(shard.name), "entry": entry, "why": found.told}
                entry += isinstance(found, Sample) or found.is_sample

    def parts(self) -> list[tuple[str, range]]:
        """(name, numbers of its records) of each shard."""
        ends, found = 0, []
        for shard, count in zip(self.corpus.shards, self.corpus.parts, strict=True):
            found.append((shard.name, range(ends, ends + count)))
            ends += count
        return found

    def write(self, indexes: Sequence[int], file: Path) -> None:
        """A shard of these records."""
        # an index is sorted by hashes
        placed = sorted(indexes, key=self.corpus.offset)
        with tarfile.TarFile(file, "w", format=tarfile.GNU_FORMAT) as tar:
            for index in placed:
                _write_sample(tar, self.corpus.raw(index))


def open_records(data: str, image_root: Path | None = None) -> Records:
    """The records of whatever :func:`pargo_mllm.data.open_corpus.open_corpus` opens, or of a prepared folder.

    Raises:
        CorpusError: if there are none.
    """
    path = Path(data)
    if not is_list(path) and (path / LIST).is_file():
        path = path / LIST
    corpus = open_corpus(data if path == Path(data) else path, 1, image_root=image_root)
    if isinstance(corpus, LlavaCorpus):
        return LlavaRecords(corpus)
    if isinstance(corpus, ShardCorpus):
        return ShardRecords(corpus)
    if isinstance(corpus, PhotographCorpus):
        return CaptionRecords.of_folder(corpus)
    return CaptionRecords.of_corpus(corpus)


def _answers(conversation: Conversation) -> str:
    return "\n".join(
        part["text"]
        for message in conversation
        if message["role"] == "assistant"
        for part in message["content"]
        if part["type"] == "text"
    )


def _write_sample(tar: tarfile.TarFile, sample: RawSample) -> None:
    for number, content in enumerate(sample.pictures):
        middle = f".{number}" if len(sample.pictures) > 1 else ""
        add_member(tar, f"{sample.key}{middle}.{_suffix(content)}", content)
    for suffix, content in sample.texts.items():
        add_member(tar, f"{sample.key}.{suffix}", content)


def _suffix(content: bytes) -> str:
    # of several pictures nobody looked whether they can be read
    try:
        return suffix_of(content)
    except BROKEN:
        return "jpg"


def _png(picture: Image.Image) -> bytes:
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def name_of(record: Record) -> str:
    """Its picture as a message may repeat it."""
    return shown(", ".join(record.pictures) or "no picture")
