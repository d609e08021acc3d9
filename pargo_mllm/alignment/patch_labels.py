"""From what is where in a picture to labels of a projector's tokens, example by example, where data is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from pargo_mllm.alignment.labels import THRESHOLD, token_labels
from pargo_mllm.alignment.origins import Origins, token_origins
from pargo_mllm.alignment.windows import feature_coverage, need_size
from pargo_mllm.alignment.words import word_ids
from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.data.corpus import Example, OtherShape
from pargo_mllm.data.feeding.patch_labels import PatchLabels
from pargo_mllm.projectors import build_projector

# words whose spelling is remembered
_REMEMBERED = 1 << 16
AUTO, ALL = "auto", "all"
TOKENS = (AUTO, ALL)
SOFT, HARD = "soft", "hard"
TARGETS = (SOFT, HARD)


class PatchLabeller:
    """Says which words are true of the tokens of an example's pictures.

    Args:
        processor: a ParGoProcessor.
        config: the model's.
        tokens: "auto": tokens with a part of the picture of their own; where a projector has none, all of them, by their
            attention. "all": tokens that read the whole picture too, by theirs.
        hard: whether the label that covers most of a token counts alone.
        threshold: of what a token reads, the least that a label covers.
        names: what labels may be; all that a token is to choose from, where its loss is contrastive.
    """

    def __init__(
        self,
        processor: Any,
        config: ParGoConfig,
        tokens: str = AUTO,
        hard: bool = False,
        threshold: float = THRESHOLD,
        names: Sequence[str] = (),
    ):
        self.processor, self.config, self.hard, self.threshold = processor, config, hard, threshold
        with torch.device("meta"):
            # what a token reads follows from the architecture: no weights
            self._projector = build_projector(config.projector_config)
        self._features = config.num_visual_tokens
        self._together = config.projector_config.reads_tiles_together
        self._origins: dict[int, Origins] = {}
        self._spelled: dict[str, tuple[int, ...]] = {}
        local = self.origins(self._features).local
        #: how many tokens, the last ones, are labelled by what they attend to
        self.read = int((~local).sum()) if tokens == ALL or not local.any() else 0
        #: how many are labelled by where they come from
        self.local = int(local.sum())
        #: the tokens of each of the names that have any, those of one spelling once
        self.choices = tuple(dict.fromkeys(filter(None, map(self._spell, names))))

    def origins(self, num_features: int) -> Origins:
        """Those of an image of so many features."""
        if num_features not in self._origins:
            self._origins[num_features] = token_origins(self._projector, num_features)
        return self._origins[num_features]

    def __call__(self, example: Example, pictures: Sequence[Image.Image] | None, tile_counts: Sequence[int]) -> PatchLabels:
        """The labels of an example's tokens; none where nobody says what is in its pictures.

        Args:
            pictures: the example's; None where they were not opened: then they are, where their sizes are needed.
            tile_counts: of each, how many tiles the encoder was shown.
        """
        seen = []
        misfits: tuple[str, ...] = ()
        for place, tiles in enumerate(tile_counts):
            try:
                regions = (example.regions[place]() if example.regions is not None else None) or ()
            except OtherShape as error:
                regions, misfits = (), (*misfits, str(error))
            size = None
            if need_size(self.processor):
                size = (example.pictures[place]() if pictures is None else pictures[place]).size
            seen.append((feature_coverage(regions, self.processor, self.config, size), int(tiles)))
        names = dict.fromkeys(name for (own, _), _ in seen for name in own)
        words = {name: self._spell(name) for name in names}
        return self._labels(seen, words, misfits)

    def _labels(self, seen, words: dict[str, tuple[int, ...]], misfits: tuple[str, ...]) -> PatchLabels:
        # labels of one spelling are one label
        spellings = list(dict.fromkeys(word for word in words.values() if word))
        places = {word: place for place, word in enumerate(spellings)}
        coverages, weights = [], []
        for (names, coverage), tiles in seen:
            own = torch.zeros(len(spellings), coverage.shape[1])
            for name, covered in zip(names, coverage, strict=True):
                if words[name]:
                    place = places[words[name]]
                    own[place] = torch.maximum(own[place], covered)
            # [images, labels, n_v]
            images = own[None] if self._together else own.unflatten(1, (tiles, -1)).transpose(0, 1)
            coverages.append(images)
            weights.append(self._weights(images))
        features = max(images.shape[-1] for images in coverages)
        covering = torch.cat([_wide(images, features) for images in coverages])
        said = torch.cat(weights)
        # what says nothing of any token here does not travel
        used = (covering.any(2).any(0) if self.read else said.any(1).any(0)).nonzero().flatten()
        return PatchLabels(
            words=tuple(spellings[place] for place in used.tolist()),
            weights=said[..., used],
            coverage=covering[:, used] if self.read else None,
            read=self.read,
            unspelled=tuple(name for name, word in words.items() if not word),
            misfits=misfits,
        )

    def _weights(self, coverage: torch.Tensor) -> torch.Tensor:
        """``[images, tokens, labels]``; of tokens without a part of their own, 0."""
        origins = self.origins(coverage.shape[-1])
        if not coverage.shape[1]:
            return torch.zeros(len(coverage), len(origins.local), 0)
        return token_labels(coverage, origins.shares, self.threshold, self.hard) * origins.local[:, None]

    def _spell(self, word: str) -> tuple[int, ...]:
        if word not in self._spelled:
            if len(self._spelled) >= _REMEMBERED:
                self._spelled.clear()
            self._spelled[word] = word_ids(self.processor.tokenizer, word)
        return self._spelled[word]


def _wide(coverage: torch.Tensor, features: int) -> torch.Tensor:
    return torch.nn.functional.pad(coverage, (0, features - coverage.shape[-1]))
