"""What a run trains on: corpora, mixed in an order, encoded, packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pargo_mllm.data.corpus import Corpus
from pargo_mllm.data.datasets import RowCollator, TrainingSet
from pargo_mllm.data.encoding import ExampleEncoder
from pargo_mllm.data.open_corpus import open_corpus
from pargo_mllm.data.order import LengthGrouped, SampleOrder
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.recipes import Recipe, RecipeError

# positions that are looked at before training starts
PROBE = 64
# global batches among which examples are grouped by length
GROUPED_BATCHES = 32


@dataclass(frozen=True)
class OpenedData:
    """The corpora of a recipe, opened; no picture has been read.

    Args:
        train: what is trained on.
        weights: how often each is drawn from; None for in proportion to their sizes.
        held_out: what training never sees; empty where nothing is held out.
    """

    train: tuple[Corpus, ...]
    weights: tuple[float, ...] | None
    held_out: tuple[Corpus, ...]

    def __len__(self) -> int:
        """Examples of one epoch."""
        return sum(len(corpus) for corpus in self.train)

    def settings(self) -> list[dict[str, Any]]:
        """What the content depends on."""
        return [corpus.settings() for corpus in self.train]


@dataclass(frozen=True)
class TrainingInputs:
    """What the trainer takes."""

    train: TrainingSet
    held_out: TrainingSet | None
    collate: RowCollator


def open_data(recipe: Recipe, say: Callable[[str], None]) -> OpenedData:
    """Open what ``recipe.data`` names.

    Raises:
        CorpusError, FolderError: if it cannot be opened.
    """
    assert recipe.data is not None
    train, held_out = [], []
    for part in recipe.data:
        for split, corpora in (("train", train), ("test", held_out)):
            corpus = open_corpus(part.path, recipe.stage, split, views=recipe.views, seed=recipe.seed)
            for reason, count in getattr(corpus, "skipped", {}).items() if split == "train" else ():
                say(f"skipped {count:,} entries of {part.path}: {reason}")
            corpora.append(corpus)
    weights = None if recipe.data[0].weight is None else tuple(part.weight for part in recipe.data)
    return OpenedData(tuple(train), weights, tuple(corpus for corpus in held_out if len(corpus)))


def training_inputs(
    recipe: Recipe, data: OpenedData, processor: ParGoProcessor, steps: int, encode: Callable[[Corpus], Corpus] | None
) -> TrainingInputs:
    """Datasets and collator.

    Args:
        steps: optimizer steps of the run.
        encode: gives a corpus the features of its pictures, where they are kept.
    """
    encoder = ExampleEncoder(processor, recipe.max_length, template=recipe.template)
    corpora = [corpus if encode is None else encode(corpus) for corpus in data.train]
    order: Any = SampleOrder([corpus.parts for corpus in corpora], data.weights, recipe.seed)
    if recipe.group_by_length:
        order = LengthGrouped(order, lambda corpus, index: corpora[corpus].length_hint(index), recipe.batch_size, GROUPED_BATCHES)
    layout = "documents" if recipe.attention == "flash_attention_2" else "shared"
    return TrainingInputs(
        TrainingSet(corpora, order, encoder, steps * recipe.batch_size),
        _held_out(recipe, data.held_out, encoder, encode),
        RowCollator(processor.tokenizer.pad_token_id, recipe.pack, recipe.max_length, layout),
    )


def probe(inputs: TrainingInputs, say: Callable[[str], None]) -> float:
    """Read a few examples as training will: tokens an example, on average.

    Raises:
        RecipeError, PictureError: if none of them can be used.
    """
    items = [inputs.train[position] for position in range(min(PROBE, len(inputs.train)))]
    skipped = [item["skipped"] for item in items if "skipped" in item]
    if len(skipped) == len(items):
        name, reason = skipped[0]
        raise RecipeError(f"--data: none of the first {len(items)} examples can be used; {name}: {reason}")
    lengths = [len(item["packed"].input_ids) for item in items if "skipped" not in item]
    return sum(lengths) / len(lengths)
