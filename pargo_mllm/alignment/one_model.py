"""Everything about one model, in one pass over the pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from pargo_mllm.alignment.ablation import CausalQuestion, MethodCheck, causal_check
from pargo_mllm.alignment.attribution import AttributionError, attribute_features, possible_methods
from pargo_mllm.alignment.attribution.derivatives import DIRECTIONS
from pargo_mllm.alignment.closely import Close, Decomposed, close_look
from pargo_mllm.alignment.comparing import spread
from pargo_mllm.alignment.entropy import StreamedEntropy, von_neumann_entropy
from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.labels import token_labels
from pargo_mllm.alignment.looking import Looked, Pictures, grid_of, in_one_piece, look
from pargo_mllm.alignment.origins import token_origins
from pargo_mllm.alignment.questions import questions_about_things
from pargo_mllm.alignment.scores import WordScores, WordScoring
from pargo_mllm.alignment.segmentation import Segmentation, word_maps
from pargo_mllm.alignment.vocabulary import Vocabulary, embedding_mean
from pargo_mllm.alignment.words import word_vectors
from pargo_mllm.modeling import ParGoForConditionalGeneration, main_dtype
from pargo_mllm.processing import ParGoProcessor
from pargo_mllm.reports.statistics import Estimate

PARTS = ("entropy", "alignment", "segmentation", "words", "attribution")
NEEDS_REGIONS = ("alignment", "segmentation")
# of pictures that are looked at closely alone
CLOSELY = ("words", "attribution")
# what there is to see of a picture that is looked at closely
_CLOSE = frozenset({"segmentation", "words", "attribution"})


@dataclass(frozen=True)
class Asked:
    """How a model is looked at.

    Args:
        close: of so many pictures words and attributions are looked at.
        words: that a token is made of.
        non_negative: whether words are added alone.
        questions: of each of them, at most, for the causal check.
    """

    close: int = 8
    words: int = 5
    non_negative: bool = False
    questions: int = 4
    batch_size: int = 8


def look_at(
    model: ParGoForConditionalGeneration,
    processor: ParGoProcessor,
    pictures: Pictures,
    words: Mapping[str, Sequence[int]],
    parts: Sequence[str],
    asked: Asked,
    name: str,
) -> tuple[dict[str, Any], list[Close]]:
    """What is found of a model, as JSON, and the pictures that were looked at closely.

    Args:
        words: of the set, each with its tokens.
        parts: of :data:`PARTS`.
        name: of the model, in front of its bar.
    """
    note = in_one_piece(processor)
    found = _Found(model, processor, words, parts, asked)
    for looked in look(model, processor, pictures, asked.batch_size, name):
        found.add(looked)
    told = found.told()
    return {**told, "notes": [note] if note else []}, found.close


class _Found:
    """What has been found of a model so far."""

    def __init__(
        self,
        model: ParGoForConditionalGeneration,
        processor: ParGoProcessor,
        words: Mapping[str, Sequence[int]],
        parts: Sequence[str],
        asked: Asked,
    ):
        self.model, self.processor, self.words, self.asked = model, processor, tuple(words), asked
        self.parts = frozenset(parts)
        self.projector, self.grid = model.model.projector, grid_of(model.config)
        self.left_out: dict[str, str] = {}
        embeddings: Any = model.get_input_embeddings()
        # what rows are multiplied by, and projected tokens are not
        self.scale = float(getattr(embeddings, "embed_scale", 1.0))
        self.mean = embedding_mean(embeddings.weight)
        self.vectors = word_vectors(embeddings.weight.detach(), list(words.values()))
        # of tokens centred as the words are, of tokens as they are, and of features where they are as wide as words
        self.scoring = {
            "centred": WordScoring(self.words, self.vectors, self.mean),
            "as_they_are": WordScoring(self.words, self.vectors),
            "before_the_projector": WordScoring(self.words, self.vectors),
        }
        self.how: dict[str, dict[str, Any]] = {}
        self.questions: list[CausalQuestion] = []
        self.close: list[Close] = []
        self.by_picture: dict[str, list[float | None]] = {}
        self.shape: tuple[int, int] = (0, 0)
        self.entropies = {
            (where, centred): StreamedEntropy(centred) for where in ("before", "after") for centred in (False, True)
        }
        self.segmentation = Segmentation(self.words, model.config.vision_config.image_size)
        self.decomposed: Decomposed | None = None
        if "words" in self.parts and asked.close:
            try:
                vocabulary = Vocabulary.of(model, processor)
                self.decomposed = Decomposed(model, vocabulary, asked.words, asked.non_negative)
            except AlignmentError as error:
                self.left_out["words"] = str(error)

    def add(self, looked: Looked) -> None:
        """Take in a picture."""
        tokens = looked.tokens / self.scale
        self.shape = (len(looked.features), len(tokens))
        shares, local = self._shares(looked.features)
        if "entropy" in self.parts:
            self._add_entropy(looked)
        if "alignment" in self.parts:
            self._add_alignment(looked, tokens, shares)
        maps = None
        if "segmentation" in self.parts and looked.shown.regions is not None:
            patches = self.grid[0] * self.grid[1]
            maps = word_maps(tokens, shares[:, -patches:], self.vectors, self.mean).unflatten(1, self.grid)
        if "segmentation" in self.parts:
            scored = None if maps is None else self.segmentation.add(maps, looked.shown.regions or (), looked.window)
            for figure in ("iou", "auc", "ap"):
                self._note(figure, None if scored is None else getattr(scored, figure))
        if looked.shown.number < self.asked.close and self.parts & _CLOSE:
            self._look_closely(looked, tokens, shares, local, maps)

    def told(self) -> dict[str, Any]:
        """What was found of all pictures, as JSON."""
        config = self.model.config
        told: dict[str, Any] = {
            "projector": config.projector_config.projector_type,
            "features": self.shape[0],
            "tokens": self.shape[1],
            "width_before": config.projector_config.vision_hidden_size,
            "width_after": config.projector_config.output_size,
            "dtype": str(main_dtype(self.model)).removeprefix("torch."),
        }
        if "entropy" in self.parts:
            told["entropy"] = self._told_entropy()
        if "segmentation" in self.parts:
            told["segmentation"] = self.segmentation.told()
        if "alignment" in self.parts:
            told["alignment"] = self._told_alignment()
        if self.decomposed is not None:
            told["words"] = self.decomposed.told()
            if self.decomposed.no_lens is not None:
                self.left_out["logit lens"] = self.decomposed.no_lens
        if "attribution" in self.parts:
            told["attribution"] = self._told_attribution()
        return {**told, "left_out": self.left_out, "by_picture": self.by_picture}

    def _note(self, figure: str, value: float | None) -> None:
        self.by_picture.setdefault(figure, []).append(value)

    def _shares(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What each token reads, ``[tokens, n_v]``, and which read a part of their own: where some do, the others read nothing,
        for they would blur the map; where none does, each reads what its attention says."""
        origins = token_origins(self.projector, len(features))
        if origins.local.any():
            return origins.shares * origins.local[:, None], origins.local
        return attribute_features(self.projector, features, "rollout").shares, origins.local

    def _add_alignment(self, looked: Looked, tokens: torch.Tensor, shares: torch.Tensor) -> None:
        if looked.shown.regions is None:
            # nobody says what its tokens show, not that they show nothing
            self._note("alignment", None)
            self._note("accuracy", None)
            return
        coverage = self._covered(looked)
        labels = token_labels(coverage, shares.cpu())
        before = self.scoring["centred"].sums
        self.scoring["centred"].add(tokens, labels)
        count, closeness, right = (now - then for now, then in zip(self.scoring["centred"].sums, before, strict=True))
        self._note("alignment", closeness / count if count else None)
        self._note("accuracy", right / count if count else None)
        self.scoring["as_they_are"].add(tokens, labels)
        if looked.features.shape[1] == self.vectors.shape[1]:
            each = torch.eye(len(looked.features))
            self.scoring["before_the_projector"].add(looked.features, token_labels(coverage, each))

    def _covered(self, looked: Looked) -> torch.Tensor:
        """How much of each feature's patch each word of the set covers, fp32 ``[words, n_v]``."""
        own = dict(zip(looked.names, looked.coverage.cpu(), strict=True))
        nothing = torch.zeros(looked.coverage.shape[1])
        return torch.stack([own.get(word, nothing) for word in self.words])

    def _told_alignment(self) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for which, scoring in self.scoring.items():
            try:
                told[which] = _scores_told(scoring.scores())
            except AlignmentError as error:
                if which == "centred":
                    self.left_out["alignment"] = str(error)
        if "before_the_projector" not in told:
            config = self.model.config.projector_config
            told["before_the_projector_left_out"] = (
                f"features are {config.vision_hidden_size} wide and words {config.output_size}, or none has a label"
            )
        return told

    def _told_attribution(self) -> dict[str, Any]:
        told: dict[str, Any] = {"methods": self.how}
        if not self.questions:
            self.left_out["causal check"] = (
                f"of the {len(self.close)} pictures that are looked at closely, no question names a thing whose place is known"
            )
            return told
        try:
            check = causal_check(self.model, self.processor, self.questions, directions=DIRECTIONS)
        except AttributionError as error:
            self.left_out["causal check"] = str(error)
            return told
        self.left_out |= {f"causal check by {method}": why for method, why in check.left_out.items()}
        checks = {method: _check_told(one) for method, one in check.methods.items()}
        skipped = dict(check.skipped)
        return {
            **told,
            "check": {
                "remove": check.remove,
                "draws": check.draws,
                "questions": check.used,
                "skipped": skipped,
                "methods": checks,
            },
        }

    def _add_entropy(self, looked: Looked) -> None:
        for where, rows in (("before", looked.features), ("after", looked.tokens)):
            self._note(f"entropy_{where}", _or_none(partial(von_neumann_entropy, rows)))
            for centred in (False, True):
                self.entropies[where, centred].add(rows)

    def _told_entropy(self) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for place, where in enumerate(("before", "after")):
            rows = self.shape[place]
            width = getattr(self.model.config.projector_config, ("vision_hidden_size", "output_size")[place])
            told[where] = {
                "a_picture": spread(self.by_picture[f"entropy_{where}"]),
                "a_picture_at_most": math.log(min(rows, width)),
                "all_pictures": _or_none(self.entropies[where, False].value),
                "all_pictures_centred": _or_none(self.entropies[where, True].value),
                "all_pictures_at_most": math.log(min(self.entropies[where, False].count, width)),
            }
        before, after = self.by_picture["entropy_before"], self.by_picture["entropy_after"]
        told["change"] = spread(
            [two - one for one, two in zip(before, after, strict=True) if one is not None and two is not None]
        )
        return told

    def _look_closely(
        self, looked: Looked, tokens: torch.Tensor, shares: torch.Tensor, local: torch.Tensor, maps: torch.Tensor | None
    ) -> None:
        patches = self.grid[0] * self.grid[1]
        said = () if self.decomposed is None else self.decomposed.add(looked.tokens)
        sources = {}
        if "attribution" in self.parts:
            for method in possible_methods(self.projector):
                found = attribute_features(self.projector, looked.features, method, directions=DIRECTIONS)
                self.how[method] = {"exact": found.exact, "how": found.how}
                sources[method] = found.shares[:, -patches:].numpy()
            coverage = dict(zip(looked.names, looked.coverage.cpu(), strict=True))
            shown = looked.shown
            self.questions += questions_about_things(
                shown.conversations, shown.picture, coverage, shown.name, self.asked.questions, shown.number
            )
        self.close.append(close_look(looked, said, shares[:, -patches:], local, self.grid, self.words, maps, sources))


def _or_none(entropy: Callable[[], float]) -> float | None:
    """An entropy; None of tokens that have none: all of them zero or, centred, equal."""
    try:
        return entropy()
    except AlignmentError:
        return None


def _scores_told(scores: WordScores) -> dict[str, Any]:
    by_label = {name: {"tokens": count, "right": right} for name, (count, right) in scores.by_label.items()}
    return {**asdict(scores), "by_label": by_label}


def _check_told(check: MethodCheck) -> dict[str, Any]:
    return {
        "verdict": check.verdict,
        "effect": _estimate_told(check.effect),
        "random": check.random,
        "spread": check.spread,
        "difference": _estimate_told(check.difference),
        "lost": check.lost,
        "random_lost": check.random_lost,
        "control": _estimate_told(check.control),
        "specific": _estimate_told(check.specific),
    }


def _estimate_told(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    interval = None if estimate.interval is None else list(estimate.interval)
    return {"value": estimate.value, "error": estimate.error, "interval_95": interval, "pictures": estimate.clusters}
