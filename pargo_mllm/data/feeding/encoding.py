"""From examples to what the model reads of them, one by one; what cannot be used is skipped and named, never an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch.utils.data import Dataset

from pargo_mllm.data.corpus import Conversation, Corpus, CorpusError, Example, is_text
from pargo_mllm.data.feeding.conversations import ConversationEncoder, ConversationError
from pargo_mllm.data.feeding.packing import IGNORED, SHARED, PackedSequence, pack
from pargo_mllm.data.feeding.patch_labels import PATCHES, PatchLabels
from pargo_mllm.data.pictures import PictureError

# what is wrong with one example, and no reason to end a run
UNUSABLE = (PictureError, CorpusError, ConversationError, OSError)
# what examples are skipped for, each kind counted
PICTURE = "pictures that cannot be read"
RECORD = "records that are damaged"
CONVERSATION = "conversations that cannot be encoded"
LONG = "examples of more than max_length tokens"
SILENT = "examples in which the assistant says nothing"
WHY_SKIPPED = (PICTURE, RECORD, CONVERSATION, LONG, SILENT)


class ExampleEncoder:
    """Makes an item of an example.

    ``packed`` is its :class:`~pargo_mllm.data.feeding.packing.PackedSequence`, ``tile_counts`` int64 ``[pictures]`` and
    ``name`` the example's. With pictures also ``pixel_values`` ``[tiles, 3, s, s]``, or ``vision_features``
    ``[tiles, n_v, c]``; ``kinds`` where the example has them; and ``patches``, its
    :class:`~pargo_mllm.data.feeding.patch_labels.PatchLabels`, where they are asked for.

    An example that cannot be used gives an item that contributes nothing: one padding token, no label, no picture, and
    ``skipped``, the pair (name, reason), and ``why``, the kind of the reason in :data:`WHY_SKIPPED`. That is one with a picture
    that cannot be read, as many pictures as its text does not show, conversations that begin differently or hold what is no
    text, nothing said by the assistant, or more than ``max_length`` tokens.

    Args:
        processor: a ParGoProcessor.
        max_length: most tokens of an example, all its conversations together; nothing is truncated. Any number when None.
        template: "chat" or "plain", as in :class:`~pargo_mllm.data.feeding.conversations.ConversationEncoder`.
        label: gives the labels of an example's tokens, from the example, its pictures (None where their features are given)
            and the tiles of each; None where nothing is learned from them.
    """

    def __init__(
        self,
        processor,
        max_length: int | None = None,
        template: str = "chat",
        label: Callable[[Example, Sequence[Image.Image] | None, Sequence[int]], PatchLabels] | None = None,
    ):
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length={max_length} must be at least 1, or None for any number of tokens.")
        self.processor = processor
        self.max_length = max_length
        self.conversations = ConversationEncoder(processor, template)
        self.label = label

    def __call__(self, example: Example) -> dict[str, Any]:
        """The item of ``example``."""
        try:
            return self._encode(example)
        except UNUSABLE as error:
            return self.skip(example.name, str(error), _kind(error))

    def skip(self, name: str, reason: str, kind: str = RECORD) -> dict[str, Any]:
        """An item that contributes nothing."""
        columns = ([self.processor.tokenizer.pad_token_id], [0], [0], [SHARED], [IGNORED])
        return {
            "packed": PackedSequence(*map(torch.tensor, columns)),
            "tile_counts": torch.empty(0, dtype=torch.int64),
            "name": name,
            "skipped": (name, reason),
            "why": kind,
        }

    def _encode(self, example: Example) -> dict[str, Any]:
        if not all(map(is_text, map(_texts, example.conversations))):
            raise ConversationError("a text holds half a character (a lone surrogate), which no tokenizer reads.")
        pictures = None if example.features is not None else [picture() for picture in example.pictures]
        visual, tile_counts = self._pictures(example, pictures)
        encoded = self.conversations.encode_conversations(example.conversations, tile_counts.tolist())
        packed = pack(encoded, self.processor.image_token_id)
        if self.max_length is not None and len(packed) > self.max_length:
            return self.skip(example.name, f"{len(packed)} tokens are more than max_length={self.max_length}", LONG)
        if not (packed.labels != IGNORED).any():
            return self.skip(example.name, "the assistant says nothing", SILENT)
        more: dict[str, Any] = {} if example.kinds is None else {"kinds": example.kinds}
        if self.label is not None and example.pictures:
            more[PATCHES] = self.label(example, pictures, tile_counts.tolist())
        return {"packed": packed, **visual, "tile_counts": tile_counts, "name": example.name, **more}

    def _pictures(
        self, example: Example, pictures: Sequence[Image.Image] | None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        if not example.pictures:
            return {}, torch.empty(0, dtype=torch.int64)
        if pictures is not None:
            pixels, tile_counts = self.processor.encode_pictures(pictures)
            return {"pixel_values": pixels}, tile_counts
        assert example.features is not None
        features = [load() for load in example.features]
        return {"vision_features": torch.cat(features)}, torch.tensor([len(tiles) for tiles in features])


class Order(Protocol):
    """Which example stands at which position of a training."""

    def __getitem__(self, position: int, /) -> tuple[int, int]:
        """The corpus and the example in it."""


class TrainingSet(Dataset):
    """Item p is example i of corpus c, encoded, where (c, i) is ``order[p]``.

    Args:
        corpora: where the examples are kept.
        order: of the examples, by position.
        encoder: makes the items.
        length: how many positions there are.
    """

    def __init__(self, corpora: Sequence[Corpus], order: Order, encoder: ExampleEncoder, length: int):
        self.corpora = corpora
        self.order = order
        self.encoder = encoder
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> dict[str, Any]:
        corpus, index = self.order[position]
        try:
            example = self.corpora[corpus][index]
        except (CorpusError, OSError) as error:
            return self.encoder.skip(f"example {index} of corpus {corpus}", str(error))
        return self.encoder(example)


def _kind(error: Exception) -> str:
    if isinstance(error, ConversationError):
        return CONVERSATION
    return RECORD if isinstance(error, CorpusError) else PICTURE


def _texts(conversation: Conversation) -> Iterator[str]:
    """What is said in a conversation."""
    for message in conversation:
        content = message["content"]
        for part in [{"text": content}] if isinstance(content, str) else content:
            yield part.get("text", "")
