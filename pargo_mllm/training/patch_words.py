"""What a recipe's patch loss needs: data that says what is where, and the language model's embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pargo_mllm.alignment.loss import CONTRASTIVE
from pargo_mllm.alignment.patch_labels import HARD, PatchLabeller
from pargo_mllm.alignment.vocabulary import embedding_mean
from pargo_mllm.data.corpus import Corpus, CorpusError, shown
from pargo_mllm.data.feeding.patch_labels import PATCHES, PatchLabels
from pargo_mllm.data.questions import QuestionCorpus
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.training.inputs import PROBE, OpenedData
from pargo_mllm.training.recipes import Recipe, RecipeError
from pargo_mllm.training.trainer.patch_alignment import PatchAlignment

# names that a token chooses from in every micro-batch: each is a logit for every token
MOST_NAMES = 2048


def check_regions(recipe: Recipe, data: OpenedData) -> None:
    """Refuse a patch loss on data of which nobody says what is where.

    Raises:
        RecipeError: naming the parts of the data that show pictures and know nothing of the first ones.
    """
    if not recipe.patch_weight:
        return
    lacking = [shown(name) for name, corpus in zip(data.names, data.train, strict=True) if _knows(corpus) is False]
    if not lacking:
        return
    needs = f"patch_weight={recipe.patch_weight:g} needs to know what is where in the pictures"
    if data.regions is not None:
        raise RecipeError(
            f"{needs}, and {data.regions.path} says nothing of those of the first {PROBE} examples in {', '.join(lacking)}: "
            "pictures must be called there as they are in the data."
        )
    raise RecipeError(
        f"{needs}, and nobody says it of those of the first {PROBE} examples in {', '.join(lacking)}. Scenes know it, and "
        "COCO-style folders with instances.json; of other pictures give --patch-labels FILE, which pargo data patches writes, "
        "or leave patch_weight out."
    )


def patch_words(
    recipe: Recipe,
    data: OpenedData,
    model: ParGoForConditionalGeneration,
    processor: Any,
    steps: int,
    say: Callable[[str], None],
) -> tuple[PatchLabeller | None, PatchAlignment | None]:
    """What labels the tokens where data is read, and what a trainer adds; None both where no patch loss is asked for.

    Args:
        model: whole, with its tensors in place.
        steps: of the run.
        say: gets a line on which tokens learn words, and of which.

    Raises:
        RecipeError: for a contrastive loss where there is nothing to choose from.
    """
    if not recipe.patch_weight:
        return None, None
    hard, contrastive = recipe.patch_targets == HARD, recipe.patch_loss == CONTRASTIVE
    names = _names(data) if contrastive else ()
    few = len(names) <= MOST_NAMES
    label = PatchLabeller(processor, model.config, recipe.patch_tokens, hard, recipe.patch_threshold, names if few else ())
    if len(label.choices) == 1:
        raise RecipeError(
            f"patch_loss={recipe.patch_loss} teaches tokens to choose among words, and of the names in the data "
            f"({', '.join(map(shown, names[:5]))}) the tokenizer spells a single one; give patch_loss: cosine."
        )
    kind = model.config.projector_config.projector_type
    which = f"{label.local} by the part of the picture that they read" if label.local else ""
    if label.read:
        why = "" if label.local else f" (the tokens of {kind} have no part of the picture of their own)"
        which += f"{' and ' if which else ''}{label.read} by what they attend to{why}"
    among = f" among {len(label.choices):,} words" if contrastive and few else ""
    say(f"patch loss, weight {recipe.patch_weight:g}, {recipe.patch_loss}{among}: of the tokens of a picture, {which}")
    if not few:
        say(
            f"the data has {len(names):,} names, more than {MOST_NAMES:,}: a token chooses among those of its micro-batch, so "
            "that the patch loss depends on how a step is divided"
        )
    embeddings: Any = model.get_input_embeddings()
    return label, PatchAlignment(
        embeddings=embeddings.weight.detach(),
        mean=embedding_mean(embeddings.weight.detach()),
        scale=float(getattr(embeddings, "embed_scale", 1.0)),
        weight=recipe.patch_weight,
        ramp=recipe.patch_ramp,
        steps=steps,
        read=label.read,
        threshold=recipe.patch_threshold,
        hard=hard,
        contrastive=contrastive,
    )


def labels_found(recipe: Recipe, items: Sequence[dict[str, Any]]) -> str:
    """A line on how many tokens of the first examples have a label.

    Raises:
        RecipeError: if none has: there would be nothing to learn.
    """
    found: list[PatchLabels] = [item[PATCHES] for item in items if PATCHES in item]
    tokens = sum(one.weights.shape[0] * one.weights.shape[1] for one in found)
    labelled = sum(one.counted() for one in found)
    if found and not labelled:
        unspelled = sorted({word for one in found for word in one.unspelled})
        why = f"; the tokenizer has no tokens for {', '.join(map(shown, unspelled[:5]))}" if unspelled else ""
        misfits = [misfit for one in found for misfit in one.misfits]
        why += f"; of {len(misfits)} pictures the labels do not fit: {misfits[0]}" if misfits else ""
        raise RecipeError(
            f"patch_weight={recipe.patch_weight:g}: no token of the first {len(items)} examples' pictures has a label{why}. "
            f"Where things are small, a lower patch_threshold than {recipe.patch_threshold:g} of what a token reads helps."
        )
    return f"patch loss: {labelled:,} of {tokens:,} tokens of the first {len(items)} examples' pictures have a label, or may"


def _names(data: OpenedData) -> tuple[str, ...]:
    """Whatever a thing in the pictures may be called."""
    found = [] if data.regions is None else [*data.regions.names]
    for corpus in data.train:
        # of other corpora the region file alone knows
        if isinstance(corpus, QuestionCorpus):
            found += corpus.region_names()
    return tuple(dict.fromkeys(found))


def _knows(corpus: Corpus) -> bool | None:
    """Whether anything is known to be in the pictures of its first examples; None where none of them has pictures."""
    found = None
    for index in range(min(PROBE, len(corpus))):
        try:
            example = corpus[index]
            if any(regions() for regions in example.regions or ()):
                return True
        except (CorpusError, OSError):
            # counted where it is trained on
            continue
        if example.pictures:
            found = False
    return found
