"""Pictures that models are compared on: which ones, what is where in them, and what a model makes of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from pargo_mllm.alignment.errors import AlignmentError, check_finite
from pargo_mllm.alignment.windows import feature_coverage, windows
from pargo_mllm.data.corpus import Conversation, Corpus, OtherShape, counted
from pargo_mllm.data.corpus import shown as printable
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.questions import QuestionCorpus
from pargo_mllm.data.regions import Region, Window
from pargo_mllm.data.scenes.corpus import Scenes
from pargo_mllm.data.sources.region_file import RegionFile
from pargo_mllm.errors import UserError
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor


@dataclass(frozen=True)
class Source:
    """Where pictures are drawn from.

    Args:
        data: see :func:`pargo_mllm.data.open_corpus.open_corpus`.
        split: "train" or "test"; of a list or shards ``held_out`` is the share that "test" holds.
        patch_labels: a file of regions, in place of what the data know themselves.
        pictures: how many, drawn at random by ``seed``.
    """

    data: str
    split: str = "test"
    held_out: float = 0.0
    image_root: Path | None = None
    patch_labels: Path | None = None
    pictures: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Shown:
    """A picture, opened.

    Args:
        number: its place among those that were drawn.
        regions: what is where in it; None where nobody says.
        conversations: about it.
        is_misfit: whether somebody says it, but of a picture of another shape.
    """

    number: int
    name: str
    picture: Image.Image
    regions: tuple[Region, ...] | None
    conversations: tuple[Conversation, ...]
    is_misfit: bool = False


@dataclass(frozen=True)
class Pictures:
    """Pictures that were drawn, each opened anew when it is its turn.

    Args:
        indices: of their examples.
        names: first names of things in them, those in most pictures first, each with its synonyms.
        with_regions: how many of them somebody says of what is where.
        skipped: records that were drawn and left out, by reason.
        other_shape: how many of them have another shape than what is said of them; they are used, and it is not.
        labels: the file that says what is where, where one does.
    """

    corpus: Corpus
    indices: tuple[int, ...]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    with_regions: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    other_shape: int = 0
    labels: RegionFile | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Shown]:
        for number, index in enumerate(self.indices):
            yield _shown(self.corpus, index, number)

    @cached_property
    def entries(self) -> int:
        """Records that were drawn: those that are used and those that were left out."""
        return len(self.indices) + self.skipped.total()


def draw_pictures(source: Source) -> Pictures:
    """Draw pictures at random until there are enough, or none is left. Each is opened once, so that all can be.

    Of a record with several pictures the first is taken. A picture that was drawn before, under whichever name, is left out.

    Raises:
        AlignmentError: where no picture can be used, or the split is of data that hold nothing out.
        CorpusError: for data that cannot be opened, or a damaged record.
    """
    corpus, labels = _opened(source)
    order = np.random.default_rng([source.seed, 14]).permutation(len(corpus))
    skipped: Counter[str] = Counter()
    names: Counter[str] = Counter()
    synonyms: dict[str, tuple[str, ...]] = {}
    indices: list[int] = []
    known, other_shape, seen = 0, 0, set()
    with tqdm(total=min(source.pictures, len(corpus)), desc="pictures", unit="picture", dynamic_ncols=True) as bar:
        for index in order.tolist():
            if len(indices) == source.pictures:
                break
            if not corpus[index].pictures:
                skipped["a record without a picture"] += 1
                continue
            try:
                shown = _shown(corpus, index, len(indices))
            except PictureError:
                skipped["a picture that cannot be read"] += 1
                continue
            content = hashlib.sha256(repr(shown.picture.size).encode() + shown.picture.tobytes()).digest()
            if content in seen:
                skipped["a picture that was drawn before"] += 1
                continue
            seen.add(content)
            indices.append(index)
            known += shown.regions is not None
            other_shape += shown.is_misfit
            own = {region.names[0]: region.names[1:] for region in shown.regions or ()}
            names.update(own.keys())
            synonyms = {**own, **synonyms}
            bar.update()
    if not indices:
        raise AlignmentError(
            f"{source.data}: none of its {len(corpus):,} records ({source.split}) can be used{counted(skipped)}."
        )
    ordered = sorted(names, key=lambda name: (-names[name], name))
    of_names = {name: synonyms[name] for name in ordered}
    return Pictures(corpus, tuple(indices), of_names, known, skipped, other_shape, labels)


def _opened(source: Source) -> tuple[Corpus, RegionFile | None]:
    if Scenes.parse(source.data) is not None and source.patch_labels is not None:
        raise AlignmentError(f"--patch-labels {source.patch_labels}: {source.data} know what is where in them; leave it out.")
    labels = None if source.patch_labels is None else RegionFile(source.patch_labels)
    try:
        corpus = open_corpus(
            source.data,
            2,
            source.split,
            held_out=source.held_out,
            image_root=source.image_root,
            regions=labels,
        )
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise AlignmentError(
            f"{source.data}: nothing of it is held out, so --split test is empty: give --held-out, the share that was held out "
            "in training, or look at --split train."
        ) from error
    if source.held_out and isinstance(corpus, QuestionCorpus):
        raise AlignmentError(
            f"--held-out {source.held_out:g} is of a LLaVA list or shards; {source.data} knows itself what is held out of it: "
            "leave it out."
        )
    return corpus, labels


def _shown(corpus: Corpus, index: int, number: int) -> Shown:
    example = corpus[index]
    try:
        regions = None if example.regions is None else example.regions[0]()
    except OtherShape:
        return Shown(number, example.name, example.pictures[0](), None, example.conversations, True)
    return Shown(number, example.name, example.pictures[0](), regions, example.conversations)


@dataclass(frozen=True)
class Looked:
    """What a model makes of a picture, on its device.

    Args:
        features: ``[n_v, c]``, what the projector reads.
        tokens: ``[tokens, C]``, what the language model gets.
        window: what the encoder sees of the picture.
        names: of things in it, and how much of the patch of each feature they cover, fp32 ``[names, n_v]``.
    """

    shown: Shown
    features: torch.Tensor
    tokens: torch.Tensor
    window: Window
    names: tuple[str, ...]
    coverage: torch.Tensor


@torch.no_grad()
def look(
    model: ParGoForConditionalGeneration, processor: ParGoProcessor, pictures: Pictures, batch_size: int, title: str
) -> Iterator[Looked]:
    """Each picture through encoder and projector, ``batch_size`` at a time.

    The processor cuts no tiles: a picture is looked at in one piece (:func:`in_one_piece`).
    """
    with tqdm(total=len(pictures), desc=printable(title), unit="picture", dynamic_ncols=True) as bar:
        for batch in _batches(pictures, batch_size):
            pixels, _ = processor.encode_pictures([shown.picture for shown in batch])
            seen = model.get_image_features(pixels.to(model.device))
            features, tokens = seen.last_hidden_state, seen.pooler_output
            assert features is not None
            assert tokens is not None
            for what, rows in (("features", features), ("tokens", tokens)):
                check_finite(rows.flatten(0, 1), f"{what} of {printable(batch[0].name)} and {len(batch) - 1} more")
            for place, shown in enumerate(batch):
                (window,) = windows(processor, shown.picture.size)
                names, coverage = feature_coverage(shown.regions or (), processor, model.config, shown.picture.size)
                yield Looked(shown, features[place], tokens[place], window, tuple(names), coverage)
                bar.update()


def in_one_piece(processor: ParGoProcessor) -> str | None:
    """Have a processor cut no tiles, and say so; None where it did not cut any.

    A map of a picture is one of one grid. What a model of tiles makes of a picture that it sees whole, it makes of small ones
    every day.
    """
    if processor.max_tiles == 1:
        return None
    told = f"pictures are looked at in one piece, where the model cuts up to {processor.max_tiles} tiles of large ones"
    processor.max_tiles = 1
    return told


def grid_of(config: Any) -> tuple[int, int]:
    """Rows and columns of the encoder's patches."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return side, side


def as_seen(picture: Image.Image, window: Window, side: int) -> Image.Image:
    """A picture as the encoder sees it, ``side`` pixels wide and high, for people."""
    width, height = picture.size
    left, top, right, bottom = window
    part = picture.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
    return part.resize((side, side), Image.Resampling.LANCZOS)


def _batches(pictures: Pictures, size: int) -> Iterator[Sequence[Shown]]:
    batch: list[Shown] = []
    for shown in pictures:
        batch.append(shown)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
