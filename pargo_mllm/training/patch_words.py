"""What a recipe's patch loss needs: data that says what is where, and the language model's embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pargo_mllm.alignment.patch_labels import HARD, PatchLabeller
from pargo_mllm.alignment.vocabulary import embedding_mean
from pargo_mllm.data.corpus import Corpus, CorpusError, shown
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.training.inputs import PROBE, OpenedData
from pargo_mllm.training.recipes import Recipe, RecipeError
from pargo_mllm.training.trainer.patch_alignment import PatchAlignment


def check_regions(recipe: Recipe, data: OpenedData) -> None:
    """Refuse a patch loss on data of which nobody says what is where.

    Raises:
        RecipeError: naming the parts of the data that show pictures and know nothing of them.
    """
    if not recipe.patch_weight:
        return
    lacking = [shown(name) for name, corpus in zip(data.names, data.train, strict=True) if _knows(corpus) is False]
    if lacking:
        raise RecipeError(
            f"patch_weight={recipe.patch_weight:g} needs to know what is where in the pictures, and nobody says it of those in "
            f"{', '.join(lacking)}. Scenes know it, and COCO-style folders with instances.json; of other pictures give "
            "--patch-labels FILE, as pargo data patches writes it; or leave patch_weight out."
        )


def patch_words(
    recipe: Recipe, model: ParGoForConditionalGeneration, processor: Any, steps: int, say: Callable[[str], None]
) -> tuple[PatchLabeller | None, PatchAlignment | None]:
    """What labels the tokens where data is read, and what a trainer adds; None both where no patch loss is asked for.

    Args:
        model: whole, with its tensors in place.
        steps: of the run.
        say: gets a line on which tokens learn words.
    """
    if not recipe.patch_weight:
        return None, None
    hard = recipe.patch_targets == HARD
    label = PatchLabeller(processor, model.config, recipe.patch_tokens, hard, recipe.patch_threshold)
    kind = model.config.projector_config.projector_type
    which = f"{label.local} by the part of the picture that they read" if label.local else ""
    if label.read:
        why = "" if label.local else f" (the tokens of {kind} have no part of the picture of their own)"
        which += f"{' and ' if which else ''}{label.read} by what they attend to{why}"
    say(f"patch loss, weight {recipe.patch_weight:g}: of the tokens of a picture, {which}")
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
    )


def _knows(corpus: Corpus) -> bool | None:
    """Whether any of its first examples with pictures says what is in them; None where none of them has pictures."""
    found = None
    for index in range(min(PROBE, len(corpus))):
        try:
            example = corpus[index]
        except CorpusError:
            # counted where it is trained on
            continue
        if example.regions is not None:
            return True
        if example.pictures:
            found = False
    return found
