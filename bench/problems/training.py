"""What a training step is measured on: sizes of the model, and examples whose lengths follow a stated distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch

from pargo_mllm.alignment.labels import token_labels
from pargo_mllm.alignment.origins import token_origins
from pargo_mllm.configuration import ParGoConfig
from pargo_mllm.data.feeding.conversations import EncodedConversation
from pargo_mllm.data.feeding.packing import pack
from pargo_mllm.data.feeding.patch_labels import PATCHES, PatchLabels
from pargo_mllm.data.regions import Region, label_coverage
from pargo_mllm.language.lora import LoraSettings
from pargo_mllm.projectors import build_projector
from pargo_mllm.training.recipes import load_recipe

# (tokens of the question, tokens of the answer) of every conversation about a picture
Lengths = list[tuple[int, int]]

# the first tokens of a vocabulary are special ones
FIRST_WORD = 3
CHARACTERS_A_TOKEN = 4.5
# in a picture, as COCO's have on average seven; and how many names there are, COCO's 80
THINGS, NAMES = 7, 80


@dataclass(frozen=True)
class Size:
    """Arguments of ParGoConfig, and LoRA of stage 2."""

    about: str
    architecture: dict[str, Any]
    lora: LoraSettings

    def config(self, language_layers: int | None = None, projector: str = "pargo") -> ParGoConfig:
        """The configuration; with another number of layers of the language model, or another projector, where one is given."""
        text = dict(self.architecture["text_config"])
        if language_layers is not None:
            text["num_hidden_layers"] = language_layers
        kind = {**self.architecture["projector_config"], "projector_type": projector}
        return ParGoConfig(**{**self.architecture, "text_config": text, "projector_config": kind})


def _size(about: str, vision: dict, projector: dict, text: dict, lora_rank: int) -> Size:
    """A size whose last token is the picture's; LoRA's alpha is twice its rank, as the paper's is."""
    architecture = {
        "vision_config": {"model_type": "eva02_clip_vision_model", **vision},
        "projector_config": projector,
        "text_config": {"model_type": "llama", "pad_token_id": 0, **text},
        "image_token_id": text["vocab_size"] - 1,
    }
    return Size(about, architecture, LoraSettings(lora_rank, 2 * lora_rank))


_PAPERS_TOKENS = {"num_hidden_layers": 6, "num_partial_tokens": 288, "num_global_tokens": 16}

SIZES = {
    "paper": Size(
        "EVA-02-CLIP-L/14-336, 6 layers of ParGo with 288 + 16 tokens, Vicuna-7B: the recipes vicuna-7b-stage1 and -stage2",
        load_recipe("vicuna-7b-stage1").architecture or {},
        load_recipe("vicuna-7b-stage2").lora(),
    ),
    "small": _size(
        "EVA-02-CLIP-B at 336 pixels, 6 layers of ParGo with 288 + 16 tokens, a Llama of TinyLlama-1.1B's sizes",
        {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
        {**_PAPERS_TOKENS, "num_attention_heads": 12},
        {
            "vocab_size": 32001, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
            "num_attention_heads": 32, "num_key_value_heads": 4,
        },
        64,
    ),
    "tiny": _size(
        "the paper's tokens and layers of ParGo; an encoder and a Llama of 4 layers, 128 and 256 wide, for two CPU cores",
        {"hidden_size": 128, "intermediate_size": 340, "num_hidden_layers": 4, "num_attention_heads": 2},
        {**_PAPERS_TOKENS, "num_attention_heads": 2},
        {
            "vocab_size": 4001, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 4,
        },
        16,
    ),
}  # fmt: skip

# for dry runs, whose times mean nothing
MINUTE = _size(
    "a few hundred weights",
    {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 4,
    },
    {"num_hidden_layers": 2, "num_partial_tokens": 12, "num_global_tokens": 2, "num_attention_heads": 2},
    {"vocab_size": 101, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2},
    2,
)  # fmt: skip


def _captions(generator: torch.Generator) -> Lengths:
    characters = 52 if _uniform(generator, 0, 1) else 921
    return [(0, _log_normal(characters / CHARACTERS_A_TOKEN, generator))]


def _conversations(generator: torch.Generator) -> Lengths:
    if _uniform(generator, 0, 9) == 0:
        return [(20, _log_normal(609 / CHARACTERS_A_TOKEN, generator))]
    return [(_uniform(generator, 15, 25), _uniform(generator, 2, 5)) for _ in range(_uniform(generator, 1, 10))]


@dataclass(frozen=True)
class Distribution:
    """Of the lengths of what is said about a picture."""

    about: str
    draw: Callable[[torch.Generator], Lengths]


LENGTHS = {
    "captions": Distribution(
        "one caption without a question, half of them coarse (12 tokens on average: COCO's 52 characters), half detailed (205: "
        "the 921 characters of ParGoCap-1M-PT), log-normal with sigma 0.4; both means from the paper's Table 1",
        _captions,
    ),
    "conversations": Distribution(
        "nine of ten pictures with 1 to 10 questions of 15 to 25 tokens and answers of 2 to 5, each uniform; one with a "
        "question of 20 tokens and a long answer (135 on average: LLaVA-23K's 609 characters), log-normal with sigma 0.4",
        _conversations,
    ),
}
# what a stage learns from, and the packed rows of the recipes
STAGE_LENGTHS = {1: "captions", 2: "conversations"}
ROW_LENGTH = load_recipe("vicuna-7b-stage1").max_length


@dataclass(frozen=True)
class TrainingProblem:
    """One optimizer step of a stage on one micro-batch.

    Args:
        size: the model's, by name; ``language_layers`` replaces its number of layers of the language model.
        pictures: of the micro-batch, each with what is said about it.
        row_length: most tokens of a packed row.
        dry: the smallest model there is, and texts an eighth as long.
    """

    size: str
    stage: int
    lengths: str
    pictures: int
    seed: int
    language_layers: int | None = None
    row_length: int = ROW_LENGTH
    gradient_checkpointing: bool = True
    dry: bool = False
    projector: str = "pargo"
    op: ClassVar[str] = "training"

    def __str__(self) -> str:
        checkpointing = "gradient checkpointing" if self.gradient_checkpointing else "no gradient checkpointing"
        kind = "" if self.projector == "pargo" else f", projector {self.projector}"
        return f"size {self.size}{kind}, stage {self.stage}: {self.pictures} pictures, {self.lengths}, {checkpointing}"

    @property
    def configuration(self) -> dict[str, Any]:
        """What it is, for a row."""
        layers = self.config.text_config.num_hidden_layers
        return {**asdict(self), "size": f"{self.size}, dry run" if self.dry else self.size, "language_layers": layers}

    @property
    def model_size(self) -> Size:
        """What the model is built of."""
        return MINUTE if self.dry else SIZES[self.size]

    @property
    def config(self) -> ParGoConfig:
        """The model's configuration."""
        return self.model_size.config(self.language_layers, self.projector)

    @property
    def label_words(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of all names of things: what the patch loss lets a token choose among."""
        return tuple(dict.fromkeys(_spelled(self.config, name) for name in range(NAMES)))

    def said(self) -> list[Lengths]:
        """What is said about each picture."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = [LENGTHS[self.lengths].draw(generator) for _ in range(self.pictures)]
        if self.dry:
            return [[(-(-question // 8), -(-answer // 8)) for question, answer in pairs] for pairs in drawn]
        return drawn

    def example_lengths(self) -> list[int]:
        """Tokens of each example, its picture included, once for all that is said about it."""
        before = 1 + self.config.num_image_tokens
        return [before + sum(question + answer for question, answer in pairs) for pairs in self.said()]

    def examples(self) -> list[dict[str, Any]]:
        """Items for a RowCollator: random pixels (standard normal, fp32), and random words in the numbers of :meth:`said`.

        In stage 1 with labels of the tokens of pictures too, as the patch loss needs them.
        """
        config, generator = self.config, torch.Generator().manual_seed(self.seed)
        side = config.vision_config.image_size
        items: list[dict[str, Any]] = [
            {
                "packed": pack([self._conversation(config, *pair, generator) for pair in pairs], config.image_token_id),
                "pixel_values": torch.randn(1, 3, side, side, generator=generator),
                "tile_counts": torch.tensor([1]),
                "name": f"picture {number}",
            }
            for number, pairs in enumerate(self.said())
        ]
        if self.stage == 1:
            for item in items:
                item[PATCHES] = _labels(config, generator)
        return items

    @staticmethod
    def _conversation(config: ParGoConfig, question: int, answer: int, generator: torch.Generator) -> EncodedConversation:
        """A first token, the picture, a question and an answer."""
        words = torch.randint(FIRST_WORD, config.image_token_id, (question + answer,), generator=generator).tolist()
        ids = [1, *[config.image_token_id] * config.num_image_tokens, *words]
        return EncodedConversation(tuple(ids), tuple(position >= len(ids) - answer for position in range(len(ids))))


def _labels(config: ParGoConfig, generator: torch.Generator) -> PatchLabels:
    """Of a picture with :data:`THINGS` boxes of random places, sizes and names, a name one or two tokens."""
    with torch.device("meta"):
        projector = build_projector(config.projector_config)
    patches = config.num_visual_tokens
    side = math.isqrt(patches)
    regions = []
    for _ in range(THINGS):
        (x1, x2), (y1, y2) = torch.rand(2, 2, generator=generator).sort(1).values.tolist()
        regions.append(Region((str(_uniform(generator, 0, NAMES - 1)),), (x1, y1, x2, y2)))
    covered = label_coverage(regions, (side, side))
    words = tuple(_spelled(config, int(name)) for name in covered)
    coverage = torch.stack([torch.from_numpy(one).float().flatten() for one in covered.values()])
    origins = token_origins(projector, patches)
    return PatchLabels(words, token_labels(coverage[None], origins.shares) * origins.local[:, None])


def _spelled(config: ParGoConfig, name: int) -> tuple[int, ...]:
    return tuple(FIRST_WORD + (7 * name + token) % (config.image_token_id - FIRST_WORD) for token in range(1 + name % 2))


def _uniform(generator: torch.Generator, least: int, most: int) -> int:
    return int(torch.randint(least, most + 1, (), generator=generator))


def _log_normal(mean: float, generator: torch.Generator, sigma: float = 0.4) -> int:
    exponent = sigma * float(torch.randn((), generator=generator)) - sigma**2 / 2
    return max(1, round(mean * math.exp(exponent)))
