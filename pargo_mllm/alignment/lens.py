"""The logit lens: which words the model's own head would say, were a hidden state the last one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pargo_mllm.alignment.errors import AlignmentError
from pargo_mllm.alignment.rows import rows_of
from pargo_mllm.modeling import ParGoForConditionalGeneration

# logits that are held at a time
_LOGITS = 2**24


@dataclass(frozen=True, eq=False)
class Said:
    """The head's likeliest words of T hidden states.

    Args:
        words: int64 ``[T, K]``, rows of the vocabulary, the likeliest first.
        probabilities: fp32 ``[T, K]``, among all rows.
    """

    words: torch.Tensor
    probabilities: torch.Tensor


class LogitLens:
    """A model's final norm and head by themselves.

    The modules behind its last layer are found by running it on one token, and what they make of that layer's output is
    compared with what the model makes of it.

    Raises:
        AlignmentError: for a language model that does more behind its layers than its modules do.
    """

    def __init__(self, model: ParGoForConditionalGeneration):
        self._model = model
        self._behind = _behind_the_layers(model)

    @torch.no_grad()
    def words(self, hidden: torch.Tensor, num_words: int = 5, among: torch.Tensor | None = None, normed: bool = False) -> Said:
        """The likeliest words of hidden states ``[T, C]``: projected tokens, or what a layer hands to the next.

        Args:
            among: bool ``[V]``, rows that may be listed (:attr:`Vocabulary.is_word`); all by default.
            normed: they have been through the final norm, as the last of transformers' ``hidden_states`` has.

        Raises:
            AlignmentError: for hidden states that are not finite.
            ValueError: where fewer than ``num_words`` rows may be listed, or for states and rows of other sizes than the
                model's.
        """
        head: Any = self._model.get_output_embeddings()
        rows_of(hidden, "hidden states")
        if hidden.dim() != 2 or hidden.shape[1] != head.weight.shape[1]:
            raise ValueError(f"hidden states {list(hidden.shape)} do not fit the head; give [T, {head.weight.shape[1]}].")
        if among is not None and (among.shape != head.weight.shape[:1] or among.dtype != torch.bool):
            raise ValueError(f"among {list(among.shape)} of {among.dtype} must be bool [{len(head.weight)}].")
        allowed = len(head.weight) if among is None else int(among.sum())
        if not isinstance(num_words, int) or not 1 <= num_words <= allowed:
            raise ValueError(f"num_words={num_words} must be a whole number, 1...{allowed}, the words that may be listed.")
        words, probabilities = [], []
        for part in hidden.to(head.weight.dtype).split(max(1, _LOGITS // len(head.weight))):
            logits = self._model.causal_head.logits(head, part if normed else self.normed(part)).float()
            likely = logits.softmax(dim=-1)
            if among is not None:
                likely[:, ~among.to(likely.device)] = -1.0
            best = likely.topk(num_words, dim=-1)
            words.append(best.indices)
            probabilities.append(best.values)
        if not words:
            none = torch.zeros(0, num_words, device=hidden.device)
            return Said(none.long(), none)
        return Said(torch.cat(words).to(hidden.device), torch.cat(probabilities).to(hidden.device))

    def normed(self, hidden: torch.Tensor) -> torch.Tensor:
        """What stands behind the last layer, applied to hidden states ``[T, C]``."""
        states = hidden[None]
        for module in self._behind:
            states = module(states)
        return states[0]


@torch.no_grad()
def _behind_the_layers(model: ParGoForConditionalGeneration) -> list[nn.Module]:
    decoder: Any = model.model.language_model
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList) and len(module)]
    # lists inside layers may be longer: a mixture's experts
    within = {module for one in lists for module in one.modules() if module is not one}
    layers: Any = max((one for one in lists if one not in within), key=len, default=None)
    if layers is None:
        raise _unknown(decoder)
    from_last: list[torch.Tensor] = []
    called: list[nn.Module] = []
    inside: list[nn.Module] = []

    def enter(module: nn.Module, args: Any) -> None:
        if from_last and not inside:
            called.append(module)
        inside.append(module) if from_last else None

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if inside:
            inside.pop()
        if module is layers[-1]:
            from_last.append(output[0] if isinstance(output, tuple) else output)

    handles = []
    # whatever holds the layers ends behind them, and is none of what follows
    holders = {module for module in decoder.modules() if any(child is layers for child in module.modules())}
    for module in decoder.modules():
        if module not in holders:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
    was_training = decoder.training
    try:
        table: Any = model.get_input_embeddings().weight
        # no row of the table, for those of some are zeros, of which little can be told
        probe = torch.linspace(-1, 1, table.shape[1], device=table.device, dtype=table.dtype)
        last = decoder.eval()(inputs_embeds=probe[None, None], use_cache=False).last_hidden_state
    finally:
        decoder.train(was_training)
        for handle in handles:
            handle.remove()
    if len(from_last) != 1:
        raise _unknown(decoder)
    states = from_last[0]
    try:
        for module in called:
            states = module(states)
    except TypeError as error:
        raise _unknown(decoder) from error
    if not torch.equal(states, last):
        raise _unknown(decoder)
    return called


def _unknown(decoder: nn.Module) -> AlignmentError:
    return AlignmentError(
        f"{type(decoder).__name__} does more behind its last layer than modules of its own do, so that there is no logit lens "
        "for it; decomposition and alignment need none."
    )
