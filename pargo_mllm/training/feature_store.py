"""The frozen encoder runs once a picture: its features on disk, by a hash of the picture and of the encoder.

Features are kept as the encoder gave them, bit for bit. They are computed in groups that depend on the corpus alone, so that a
run that was killed and goes on finds what an uninterrupted one would have computed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from pargo_mllm.data.corpus import Corpus, CorpusError, Example, Tally
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.data.questions import QuestionCorpus
from pargo_mllm.files import whole_file
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.trainer.frozen_features import frozen_features

DIGEST_BYTES = 32
# pictures encoded at once
GROUP = 32


class FeatureStore:
    """Features of one encoder below ``root``: a file a picture, complete or absent.

    Args:
        root: the folder; encoders share it.
        model: whose encoder it is.
        bf16: whether it runs under autocast. This, its weights and their dtypes are the key.
    """

    def __init__(self, root: Path, model: ParGoForConditionalGeneration, bf16: bool):
        self.bf16 = bf16
        self.folder = root / encoder_digest(model, bf16)

    def path(self, picture: bytes) -> Path:
        """Where the features of a picture (its hash) are."""
        name = picture.hex()
        return self.folder / name[:2] / f"{name}.safetensors"

    def load(self, picture: bytes) -> torch.Tensor:
        """Features ``[tiles, n_v, c]``.

        Raises:
            PictureError: if they are missing or damaged.
        """
        try:
            return load_file(self.path(picture))["features"]
        except (OSError, KeyError, SafetensorError) as error:
            raise PictureError(
                f"{self.path(picture)} cannot be read ({error}); delete it, and the features are computed again."
            ) from error

    def has(self, picture: bytes) -> bool:
        """Whether the features of a picture are there."""
        return self.path(picture).is_file()

    def save(self, picture: bytes, features: torch.Tensor) -> None:
        """Keep features; other processes see them whole or not at all."""
        path = self.path(picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, shared=True, durable=False) as aside:
            save_file({"features": features.contiguous()}, aside)


class EncodedCorpus:
    """A corpus whose examples come with the features of their pictures.

    Args:
        corpus: the examples.
        store: where the features are.
        first: ``[N + 1]``, where the pictures of each example begin in ``pictures``.
        pictures: their hashes, uint8 ``[pictures, 32]``; zeros for one that cannot be read.
    """

    def __init__(self, corpus: Corpus, store: FeatureStore, first: np.ndarray, pictures: np.ndarray):
        self.corpus = corpus
        self.store = store
        self.first = first
        self.pictures = pictures

    @property
    def parts(self) -> Sequence[int]:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        return self.corpus.parts

    @property
    def tallies(self) -> Mapping[str, Tally]:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        return self.corpus.tallies

    @property
    def skipped(self) -> Counter[str]:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        return self.corpus.skipped

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> Example:
        """The example; one with a picture that cannot be read comes without features, and says so when it is opened."""
        example = self.corpus[index]
        hashes = self.pictures[self.first[index] : self.first[index + 1]]
        if not len(hashes) or not hashes.any(axis=1).all():
            return example
        return replace(example, features=tuple(partial(self.store.load, row.tobytes()) for row in hashes))

    @property
    def unreadable(self) -> list[int]:
        """Examples with a picture that cannot be read."""
        pairs = zip(self.first, self.first[1:], strict=False)
        return [index for index, (begin, end) in enumerate(pairs) if not self.pictures[begin:end].any(axis=1).all()]

    def length_hint(self, index: int) -> int:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        return self.corpus.length_hint(index)

    def settings(self) -> dict[str, Any]:
        """See :class:`pargo_mllm.data.corpus.Corpus`."""
        return self.corpus.settings()


def encode_corpus(
    corpus: Corpus,
    model: ParGoForConditionalGeneration,
    processor: ParGoProcessor,
    store: FeatureStore,
    rank: int = 0,
    processes: int = 1,
    from_all: Callable[[Any], list[Any]] = lambda value: [value],
) -> EncodedCorpus:
    """Compute the features of a corpus that are missing, and know which belong to which example.

    Args:
        rank, processes: several processes share the work.
        from_all: gives every process what each of them gave, by rank.
    """
    list_file = store.folder / f"pictures-{_list_key(corpus, processor)}.npz"
    known = _read_list(list_file, len(corpus))
    complete = known is not None and all(store.has(row.tobytes()) for row in known[1] if row.any())
    # decided together: one that is early must not write what another one then no longer misses
    if not all(from_all(complete)):
        groups = range(-(-len(corpus) // GROUP))
        mine = groups[rank::processes]
        shown = tqdm(mine, desc="features of pictures", unit="group", dynamic_ncols=True, disable=rank > 0)
        found = from_all({group: _encode_group(corpus, group, model, processor, store) for group in shown})
        examples = [hashes for group in groups for hashes in found[group % processes][group]]
        known = _listed(examples)
        if rank == 0:
            _write_list(list_file, *known)
    assert known is not None
    return EncodedCorpus(corpus, store, *known)


def encoder_digest(model: ParGoForConditionalGeneration, bf16: bool) -> str:
    """Sixteen hexadecimal digits of the encoder's weights, their dtypes, and how its features are computed and taken."""
    digest = hashlib.sha256()
    config = model.config
    taken = [
        bf16,
        config.vision_config.to_json_string(use_diff=False),
        config.vision_config._attn_implementation,
        config.vision_feature_layer,
        config.vision_feature_select_strategy,
    ]
    digest.update(json.dumps(taken).encode())
    for name, weight in sorted(model.model.vision_tower.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _encode_group(corpus, group: int, model, processor, store: FeatureStore) -> list[list[bytes]]:
    """Hashes of the pictures of a group's examples; what the store lacks is computed, the whole group at once."""
    hashes: list[list[bytes]] = []
    pixels: dict[bytes, torch.Tensor] = {}
    for index in range(group * GROUP, min((group + 1) * GROUP, len(corpus))):
        hashes.append([])
        for picture in _pictures(corpus, index):
            if picture is None:
                hashes[-1].append(bytes(DIGEST_BYTES))
                continue
            given, _ = processor.encode_pictures([picture])
            name = hashlib.sha256(f"{given.dtype} {tuple(given.shape)}".encode() + given.numpy().tobytes()).digest()
            hashes[-1].append(name)
            pixels[name] = given
    if not all(store.has(name) for name in pixels):
        features = frozen_features(model.model, torch.cat(list(pixels.values())), store.bf16).cpu()
        for name, part in zip(pixels, features.split([len(given) for given in pixels.values()]), strict=True):
            if not store.has(name):
                store.save(name, part)
    return hashes


def _pictures(corpus: Corpus, index: int) -> Iterator[Image.Image | None]:
    """The pictures of an example; None for what cannot be read, which training skips and names."""
    try:
        loaders = corpus[index].pictures
    except CorpusError:
        return
    for load in loaders:
        try:
            yield load()
        except (PictureError, OSError):
            yield None


def _list_key(corpus: Corpus, processor: ParGoProcessor) -> str:
    tiles = [processor.max_tiles, processor.overview_tile]
    # captions and questions show the same pictures
    shown = corpus.shows() if isinstance(corpus, QuestionCorpus) else corpus.settings()
    text = json.dumps([shown, len(corpus), processor.image_processor.to_json_string(), tiles], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_list(file: Path, examples: int) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        with np.load(file, allow_pickle=False) as content:
            first, pictures = content["first"], content["pictures"]
    except (OSError, ValueError, KeyError):
        return None
    fits = len(first) == examples + 1 and pictures.shape == (int(first[-1]), DIGEST_BYTES)
    return (first, pictures) if fits else None


def _listed(examples: list[list[bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """``first`` and ``pictures`` of :class:`EncodedCorpus` from the hashes of each example's pictures."""
    first = np.cumsum([0, *map(len, examples)])
    joined = b"".join(name for hashes in examples for name in hashes)
    return first, np.frombuffer(joined, dtype=np.uint8).reshape(-1, DIGEST_BYTES)


def _write_list(file: Path, first: np.ndarray, pictures: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file, shared=True, durable=False) as aside:
        np.savez(aside, first=first, pictures=pictures)
