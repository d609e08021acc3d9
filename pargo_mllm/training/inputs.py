"""What a run trains on: corpora, mixed in an order, encoded, packed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pargo_mllm.alignment.patch_labels import PatchLabeller
from pargo_mllm.data.corpus import Corpus, counted, shown
from pargo_mllm.data.feeding.collation import RowCollator
from pargo_mllm.data.feeding.encoding import ExampleEncoder, TrainingSet
from pargo_mllm.data.feeding.order import LengthGrouped, SampleOrder
from pargo_mllm.data.open_corpus import is_list, open_corpus
from pargo_mllm.data.sources.region_file import RegionFile
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.training.recipes import DataPart, Recipe, RecipeError

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
        names: of what is trained on, as it was asked for.
        regions: what is where in the pictures, where a file says it.
    """

    train: tuple[Corpus, ...]
    weights: tuple[float, ...] | None
    held_out: tuple[Corpus, ...]
    names: tuple[str, ...] = ()
    regions: RegionFile | None = None

    def __len__(self) -> int:
        """Examples of one epoch."""
        return sum(len(corpus) for corpus in self.train)

    def settings(self) -> list[dict[str, Any]]:
        """What the content depends on."""
        return [corpus.settings() for corpus in self.train]

    def counts(self) -> list[dict[str, Any]]:
        """What became of every entry of each source, as JSON: ``used + held_out + skipped = entries`` for each kind."""
        sources: list[tuple[str, Corpus | RegionFile]] = list(zip(self.names, self.train, strict=True))
        if self.regions is not None:
            sources.append((str(self.regions.path), self.regions))
        return [
            {
                "source": name,
                "entries": {
                    kind: {
                        "entries": tally.entries,
                        "used": tally.used,
                        "held_out": tally.other_side,
                        "skipped": dict(tally.skipped),
                    }
                    for kind, tally in source.tallies.items()
                },
            }
            for name, source in sources
        ]

    def describe(self) -> str:
        """The same in lines: how many are used, and a line for each reason."""
        lines = []
        for source in self.counts():
            name = shown(source["source"])
            for number, (kind, counts) in enumerate(source["entries"].items()):
                # of the others only what is left out
                if number and not counts["skipped"]:
                    continue
                held_out = f", {counts['held_out']:,} held out" if counts["held_out"] else ""
                skipped = sum(counts["skipped"].values())
                lines.append(f"{name}: of {counts['entries']:,} {kind} {counts['used']:,} used{held_out}, {skipped:,} skipped")
            lines += [
                f"skipped {count:,} entries of {name}: {reason}"
                for counts in source["entries"].values()
                for reason, count in counts["skipped"].items()
            ]
        return "\n".join(lines)


@dataclass(frozen=True)
class TrainingInputs:
    """What the trainer takes."""

    train: TrainingSet
    held_out: TrainingSet | None
    collate: RowCollator


def open_data(recipe: Recipe) -> OpenedData:
    """Open what ``recipe.data`` names.

    Raises:
        CorpusError, FolderError: if it cannot be opened.
        RecipeError: for ``eval_steps`` where nothing is held out, ``image_root`` without a LLaVA list, or ``patch_labels`` for
            scenes alone.
    """
    assert recipe.data is not None
    train, held_out = [], []
    regions = _regions(recipe)
    for part in recipe.data:
        settings: dict[str, Any] = {"held_out": recipe.held_out, "views": recipe.views, "seed": recipe.seed}
        settings["image_root"] = part.image_root or (recipe.image_root if _is_list(part) else None)
        # scenes know what is where in them
        settings["regions"] = regions if isinstance(part.source, Path) else None
        train.append(open_corpus(part.source, recipe.stage, "train", **settings))
        if recipe.eval_steps is not None:
            held_out += _opened_test(part.source, recipe, settings)
    if recipe.eval_steps is not None and not held_out:
        raise RecipeError(
            f"eval_steps={recipe.eval_steps}, but nothing is held out of the data; give held_out: 0.01, say; of scenes, "
            "scenes:held_out=400."
        )
    if recipe.image_root is not None and not any(map(_is_list, recipe.data)):
        raise RecipeError(
            f"image_root={recipe.image_root} says where LLaVA lists have their pictures, and data has none; leave it out."
        )
    weights = None if recipe.data[0].weight is None else tuple(part.weight for part in recipe.data)
    names = tuple(map(str, recipe.data))
    return OpenedData(tuple(train), weights, tuple(held_out), names, regions)  # type: ignore[arg-type]


def _regions(recipe: Recipe) -> RegionFile | None:
    """What the patch loss learns from, where it is asked for."""
    if recipe.patch_labels is None or not recipe.patch_weight:
        return None
    if not any(isinstance(part.source, Path) for part in recipe.data or ()):
        raise RecipeError(f"patch_labels={recipe.patch_labels}: scenes know what is where in them; leave it out.")
    return RegionFile(recipe.patch_labels)


def _is_list(part: DataPart) -> bool:
    return isinstance(part.source, Path) and is_list(part.source)


def _opened_test(source, recipe: Recipe, settings: dict[str, Any]) -> list[Corpus]:
    try:
        corpus = open_corpus(source, recipe.stage, "test", **settings)
    except ValueError:
        # its training part was opened with the same settings: nothing is held out, or nothing that this stage needs
        return []
    return [corpus] if len(corpus) else []


def training_inputs(
    recipe: Recipe,
    data: OpenedData,
    processor: ParGoProcessor,
    steps: int,
    encode: Callable[[Corpus], Corpus] = lambda corpus: corpus,
    layout: str = "shared",
    label: PatchLabeller | None = None,
) -> TrainingInputs:
    """Datasets and collator.

    Args:
        steps: optimizer steps of the run.
        encode: gives a corpus the features of its pictures, where they are kept.
        layout: of the rows, see :class:`~pargo_mllm.data.feeding.collation.RowCollator`.
        label: gives the labels of pictures' tokens, where the patch loss needs them.
    """
    encoder = ExampleEncoder(processor, recipe.max_length, template=recipe.template, label=label)
    corpora = [encode(corpus) for corpus in data.train]
    order: Any = SampleOrder([corpus.parts for corpus in corpora], data.weights, recipe.seed)
    if recipe.group_by_length:
        order = LengthGrouped(order, partial(_length, corpora), recipe.batch_size, GROUPED_BATCHES)
    held_out = None
    if data.held_out:
        judged = [encode(corpus) for corpus in data.held_out]
        # the same examples each time, of every corpus
        examples = SampleOrder([corpus.parts for corpus in judged], None, seed=0)
        held_out = TrainingSet(judged, examples, encoder, min(recipe.eval_examples, sum(map(len, judged))))
    return TrainingInputs(
        TrainingSet(corpora, order, encoder, steps * recipe.batch_size),
        held_out,
        RowCollator(processor.tokenizer.pad_token_id, recipe.pack, recipe.max_length, layout, label.choices if label else ()),
    )


def _length(corpora: list[Corpus], corpus: int, index: int) -> int:
    return corpora[corpus].length_hint(index)


def first_items(inputs: TrainingInputs) -> list[dict[str, Any]]:
    """A few examples as training will read them, those that can be used.

    Raises:
        RecipeError: if none of them can.
    """
    items = [inputs.train[position] for position in range(min(PROBE, len(inputs.train)))]
    usable = [item for item in items if "skipped" not in item]
    if not usable:
        name, reason = items[0]["skipped"]
        reasons = counted(Counter(item["why"] for item in items))
        raise RecipeError(f"--data: none of the first {len(items)} examples can be used{reasons}; {name}: {reason}")
    return usable
