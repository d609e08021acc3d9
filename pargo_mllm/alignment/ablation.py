"""The causal check: which map of an object may be believed, judged by what happens without the tokens it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from pargo_mllm.alignment.attribution.answers import ANSWER_METHODS, of_asked
from pargo_mllm.alignment.attribution.asked import Asked, answered, read
from pargo_mllm.alignment.attribution.patches import (
    attribute_features,
    check_method,
    check_settings,
    in_full_precision,
    possible_methods,
)
from pargo_mllm.alignment.attribution.result import METHODS, Attribution, AttributionError, checked_coverage
from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.judgement import MethodCheck, Removal, Trial, judged
from pargo_mllm.data.corpus import Conversation, counted
from pargo_mllm.data.feeding.chat_format import ConversationError
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor

#: ways to take tokens away, and what each does
REMOVALS = {
    "mean": "each becomes the mean of the picture's other tokens",
    "drop": "they are left out, and what stands behind moves up",
    "block": "nobody may look at them; they keep their places",
}
#: methods that name tokens by the answer, whatever object it is about
ANSWER_PREFIX = "answer_"
#: tokens drawn at random: what must show no difference
RANDOM = "random"
# of an answer's log-probability, where nobody says
DRAWS, BATCH = 20, 16


@dataclass(frozen=True)
class CausalQuestion:
    """Something asked about an object of a picture.

    Args:
        conversation: of one picture, the question at its end.
        answer: the right one.
        coverage: ``[n_v]`` (of all tiles, one behind the other), how much of each feature's patch the object covers, 0...1.
        other: a question about another object of the same picture with its right answer, as a control; None without one.
        group: what the picture is called: questions of one picture are no samples of their own. Each its own where empty.
    """

    conversation: Conversation
    answer: str
    coverage: torch.Tensor
    other: tuple[Conversation, str] | None = None
    group: str = ""


@dataclass(frozen=True)
class CausalCheck:
    """The check of several methods on the same questions: ``used`` and ``skipped`` add up to those given.

    Args:
        remove: of :data:`REMOVALS`.
        draws: random sets of tokens a question.
        methods: by name.
        left_out: methods that this model does not have, with the reason.
    """

    remove: str
    draws: int
    used: int
    skipped: Counter[str]
    methods: dict[str, MethodCheck]
    left_out: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def causal_check(
    model: ParGoForConditionalGeneration,
    processor: ParGoProcessor,
    questions: Iterable[CausalQuestion],
    methods: Sequence[str] | None = None,
    *,
    remove: str = "mean",
    draws: int = DRAWS,
    batch: int = BATCH,
    seed: int = 0,
    **settings: Any,
) -> CausalCheck:
    """Take the tokens away that each method attributes to an object, and ask about it.

    As large a share of the tokens is removed as the object is of the picture: one at least, half of them at most, and as many
    for every method. They are those of which most comes from the object; ``answer_gradient`` and ``answer_attention`` name
    those that the answer comes from, and ``random`` any. Random sets are drawn from all tokens, the same ones for all methods.

    Args:
        methods: of :data:`~pargo_mllm.alignment.attribution.METHODS`, "answer_gradient", "answer_attention" and "random"; all
            that there are for this model when None.
        remove: of :data:`REMOVALS`.
        draws: random sets a question, two at least.
        batch: prompts side by side.
        seed: of the draws, and of the order of tokens that a map does not tell apart.
        settings: of :func:`~pargo_mllm.alignment.attribution.attribute_features`.

    Raises:
        AttributionError: for a method that this model does not have, an unknown way to remove tokens or one that this language
            model ignores, coverage of another number of features, settings out of range, and where no question can be used.
    """
    checked = _Checked(model, processor, remove, draws, batch, seed, settings)
    chosen = list(dict.fromkeys(checked.possible() if methods is None else methods))
    if not chosen or isinstance(methods, str):
        raise AttributionError(f"methods={methods!r} must be a list of names; there are {', '.join(checked.possible())}.")
    left_out: dict[str, str] = {}
    for method in chosen:
        checked.check(method)
    found: dict[str, list[Trial]] = {}
    skipped: Counter[str] = Counter()
    was_training = model.training
    model.eval()
    try:
        for number, question in enumerate(tqdm(questions, desc="causal check", unit="question", disable=None, leave=False)):
            try:
                done = checked.of(number, question, chosen, left_out if methods is None else None)
            except (ConversationError, PictureError, AlignmentError) as error:
                skipped[str(error).removesuffix(".")] += 1
                continue
            except _Unusable as reason:
                skipped[str(reason).removesuffix(".")] += 1
                continue
            for method, one in done.items():
                found.setdefault(method, []).append(one)
    finally:
        model.train(was_training)
    if not found:
        raise AttributionError(f"no question can be checked{counted(skipped) or ': there is none'}.")
    used = len(next(iter(found.values())))
    return CausalCheck(remove, draws, used, skipped, judged({method: found[method] for method in chosen}, seed), left_out)


class _Unusable(Exception):
    """A question that cannot be checked; the message says why."""


class _Checked:
    """One model under the check."""

    def __init__(
        self,
        model: ParGoForConditionalGeneration,
        processor: ParGoProcessor,
        remove: str,
        draws: int,
        batch: int,
        seed: int,
        settings: dict[str, Any],
    ):
        if remove not in REMOVALS:
            raise AttributionError(f"remove={remove!r} takes no tokens away; there are {', '.join(REMOVALS)}.")
        if not (isinstance(draws, int) and isinstance(batch, int) and draws >= 2 and batch >= 1):
            raise AttributionError(f"draws={draws!r} must be at least 2, for a spread, and batch={batch!r} at least 1.")
        check_settings(settings.get("directions"), settings.get("chunk"), seed)
        self.model, self.processor, self.remove = model, processor, remove
        self.draws, self.batch, self.seed, self.settings = draws, batch, seed, settings
        self.projector = in_full_precision(model.model.projector)
        self._blocks = remove != "block"
        self._features: torch.Tensor | None = None
        self._maps: dict[str, Attribution] = {}

    def possible(self) -> tuple[str, ...]:
        """All methods."""
        return (*possible_methods(self.projector), *(ANSWER_PREFIX + name for name in ANSWER_METHODS), RANDOM)

    def check(self, method: str) -> None:
        """Refuse one that there is not."""
        if method in self.possible():
            return
        if method in METHODS:
            check_method(self.projector, method)
        raise AttributionError(f"method={method!r} names no tokens; for this model there are {', '.join(self.possible())}.")

    def of(
        self, number: int, question: CausalQuestion, methods: list[str], left_out: dict[str, str] | None
    ) -> dict[str, Trial]:
        """What each method does to one question. Answer methods that the model does not have go from ``methods`` to
        ``left_out``, where that is given."""
        asked = self._read(number, question.conversation, question.answer)
        if question.other is not None and (not isinstance(question.other, tuple) or len(question.other) != 2):
            raise AttributionError(
                f"question {number}: other={question.other!r} must be a conversation and its answer, or None."
            )
        other = None if question.other is None else self._read(number, *question.other)
        if other is not None and not _same_picture(asked, other):
            raise AttributionError(f"question {number}: its other question shows another picture; they must share one.")
        coverage, tokens = self._coverage(number, question, asked), len(asked.places)
        count = min(max(1, round(tokens * coverage.mean().item())), tokens // 2)
        generator = torch.Generator().manual_seed(hash((self.seed, number)) % 2**63)
        # each from a stream of its own: which methods are asked for changes no draw
        drawn = torch.rand(self.draws, tokens, generator=generator).argsort(dim=-1)[:, :count]
        order, noise = torch.randperm(tokens, generator=generator), torch.rand(tokens, generator=generator)
        named: dict[str, torch.Tensor] = {}
        for method in list(methods):
            try:
                scores = noise if method == RANDOM else self._scores(method, asked, coverage)
            except AttributionError as error:
                if left_out is None or not method.startswith(ANSWER_PREFIX):
                    raise
                left_out[method] = str(error)
                methods.remove(method)
                continue
            # a random order among those that the map does not tell apart
            named[method] = order[scores[order].argsort(descending=True, stable=True)[:count]]
        sets = torch.cat([drawn, torch.stack(list(named.values()))])
        falls, kept, said = self._falls(asked, sets)
        others = None if other is None else self._falls(other, sets)[0]
        random, lost = falls[: self.draws], (~kept[: self.draws]).double()
        return {
            method: Trial(
                question.group or f"question {number}",
                Removal(
                    question=number,
                    count=count,
                    effect=falls[row].item(),
                    random=random.mean().item(),
                    spread=random.std().item(),
                    said=said,
                    lost=said and not kept[row].item(),
                    random_lost=lost.mean().item() if said else 0.0,
                    other_effect=None if others is None else others[row].item(),
                    other_random=None if others is None else others[: self.draws].mean().item(),
                ),
                random.tolist(),
            )
            for row, method in enumerate(named, start=self.draws)
        }

    def _read(self, number: int, conversation: Conversation, answer: str) -> Asked:
        try:
            asked = read(self.model, self.processor, conversation, answer)
        except AttributionError as error:
            raise _Unusable(str(error)) from error
        if len(asked.places) < 2:
            raise AttributionError(f"question {number}: its picture is one token, and the check compares tokens.")
        if not self._blocks:
            _check_blocking(self.model, asked)
            self._blocks = True
        return asked

    def _coverage(self, number: int, question: CausalQuestion, asked: Asked) -> torch.Tensor:
        try:
            coverage = checked_coverage(question.coverage, len(asked.features.flatten(0, 1)))
        except AttributionError as error:
            raise AttributionError(f"question {number}: {error}") from error
        if not coverage.any():
            raise _Unusable("the object covers no patch that the encoder sees")
        return coverage

    def _scores(self, method: str, asked: Asked, coverage: torch.Tensor) -> torch.Tensor:
        """How much each token is of what the method looks for, ``[tokens]``."""
        if method.startswith(ANSWER_PREFIX):
            return of_asked(self.model, asked, method.removeprefix(ANSWER_PREFIX)).tokens
        if self._features is None or not torch.equal(self._features, asked.features):
            self._features, self._maps = asked.features, {}
        # once for all that is asked about a picture
        if method not in self._maps:
            self._maps[method] = attribute_features(self.projector, asked.features, method, **self.settings)
        return self._maps[method].of_object(coverage)

    @torch.no_grad()
    def _falls(self, asked: Asked, sets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Without each of several sets of tokens ``[sets, count]``: how far the answer's log-probability falls and whether it
        is still said, ``[sets]`` on the CPU; and whether it is with all of them."""
        whole, said = answered(self.model, asked.embeddings[None], asked.answer)
        results = [
            answered(self.model, rows, asked.answer, mask)
            for part in sets.split(self.batch)
            for rows, mask in [without(asked, part, self.remove)]
        ]
        falls = (whole - torch.cat([result[0] for result in results])).double().cpu()
        if not bool(falls.isfinite().all()):
            raise _Unusable("the log-probability of its answer is no finite number")
        return falls, torch.cat([result[1] for result in results]).cpu(), bool(said)


def without(asked: Asked, sets: torch.Tensor, remove: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A question without some of its picture's tokens: embeddings ``[sets, L or L - count, C]``, and the mask for "block".

    Args:
        sets: int64 ``[sets, count]``, numbers of tokens, none twice in a row, not all of them.
        remove: of :data:`REMOVALS`.
    """
    places, length = asked.places[sets.to(asked.places.device)], len(asked.embeddings)
    rows = asked.embeddings.expand(len(sets), -1, -1)
    left = torch.ones(len(sets), length, dtype=torch.long, device=places.device).scatter(1, places, 0)
    if remove == "block":
        return rows, left
    if remove == "drop":
        return rows[left.bool()].unflatten(0, (len(sets), -1)), None
    others = torch.ones(len(sets), len(asked.places), device=places.device).scatter(1, sets.to(places.device), 0.0)
    # of those that stay: with the removed ones in it, the mean would say what they said
    mean = others @ asked.tokens.float() / others.sum(dim=1, keepdim=True)
    return torch.where(left[..., None].bool(), rows, mean[:, None].to(rows.dtype)), None


def _same_picture(one: Asked, other: Asked) -> bool:
    # up to what computing it twice may change
    return one.features.shape == other.features.shape and one.features.allclose(other.features, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def _check_blocking(model: ParGoForConditionalGeneration, asked: Asked) -> None:
    """Refuse a language model for which a masked token's content still matters, as for recurrent layers."""
    rows, mask = without(asked, torch.tensor([[0], [0]]), "block")
    rows = rows.clone()
    rows[1, asked.places[0]] = -rows[1, asked.places[0]]
    (first, second), _ = answered(model, rows, asked.answer, mask)
    # in half precision experts may get other tokens beside theirs, and round otherwise
    near = 1e-5 if model.dtype in (torch.float32, torch.float64) else 0.05
    if not torch.allclose(first, second, rtol=0, atol=near):
        raise AttributionError(
            "remove='block' is not possible: what is masked still reaches the answers of this language model; use 'mean' or "
            "'drop'."
        )
