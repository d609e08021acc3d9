"""What a causal language model does behind its decoder: from hidden states to logits, and its own terms of the loss.

Gemma 2 caps its logits, Granite and Cohere scale them, Phi's head has a bias, a mixture of experts balances its router. None of
it is written again here: the forward of the model's own class runs on what the decoder gave, with the decoder taken out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.modeling_outputs import ModelOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

from pargo_mllm.configuration import LanguageModelError


@dataclass
class _DecoderOutput(ModelOutput):
    """What a decoder returned; whatever it did not return is None."""

    last_hidden_state: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)


class _TakenOut(nn.Module):
    """In the decoder's place: the embeddings it is given are its last hidden states. It keeps the decoder's numbers."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        for name, value in vars(decoder).items():
            if isinstance(value, (int, float, str)) and not name.startswith("_"):
                setattr(self, name, value)
        self.router_logits: tuple[torch.Tensor, ...] | None = None

    @property
    def decoder(self) -> nn.Module:
        """OPT's class asks for what its decoder wraps."""
        return self

    def forward(self, *args, inputs_embeds: torch.Tensor, **kwargs) -> _DecoderOutput:
        return _DecoderOutput(last_hidden_state=inputs_embeds, router_logits=self.router_logits)


class CausalHead:
    """The causal class of a text configuration without its decoder. It holds no weights: the head is handed in.

    Args:
        config: of the language model; changes of it take effect where the class reads it.

    Attributes:
        name: of the causal class.
        decoder_name: what it calls its decoder.
        embeddings_name: what the decoder calls its word embeddings.
        can_be_tied: whether the head's weights are the embeddings' where the configuration says so.

    Raises:
        LanguageModelError: for a class that cannot be taken apart: it has no causal class, its decoder is another one than
            AutoModel's, more than one head with weights, or embeddings of another width than its hidden states.
    """

    def __init__(self, config: PreTrainedConfig):
        causal_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        if causal_class is None:
            raise LanguageModelError(
                f"model_type={config.model_type!r} has no causal language model in transformers; text_config must be of one "
                "that AutoModelForCausalLM knows."
            )
        self.name = causal_class.__name__
        with torch.device("meta"):
            causal: Any = AutoModelForCausalLM.from_config(config)
        decoder_class: Any = MODEL_MAPPING.get(type(config), None)
        decoders = [(name, child) for name, child in causal.named_children() if _is_the_same(type(child), decoder_class)]
        if len(decoders) != 1:
            raise LanguageModelError(
                f"{self.name} does not hold the class that AutoModel gives for model_type={config.model_type!r} as its decoder."
            )
        ((self.decoder_name, decoder),) = decoders
        embeddings, head = causal.get_input_embeddings(), causal.get_output_embeddings()
        width = getattr(embeddings, "embedding_dim", None)
        if width != config.hidden_size:
            raise LanguageModelError(f"{self.name} embeds tokens {width} wide and its layers are {config.hidden_size} wide.")
        names = {id(module): name for name, module in decoder.named_modules()}
        self.embeddings_name = names.get(id(embeddings))
        self._taken_out = _TakenOut(decoder)
        setattr(causal, self.decoder_name, self._taken_out)
        behind = {id(weight) for weight in [*causal.parameters(), *causal.buffers()]}
        if head is None or self.embeddings_name is None or behind != {id(weight) for weight in head.parameters()}:
            raise LanguageModelError(f"{self.name} has more behind its decoder than one linear head.")
        self.can_be_tied = bool(causal._tied_weights_keys)
        causal.config = config
        # what the labels cost is counted where their hidden states are known
        causal.loss_function = _nothing
        self._causal, self._head = causal, head

    def new_head(self) -> nn.Module:
        """The output embeddings as the class builds them, with weights that are not initialised yet."""
        # the skeleton's has been through its initialisation, on the meta device
        self._head.__dict__.pop("_is_hf_initialized", None)
        return self._head.to_empty(device=torch.get_default_device())

    def logits(self, head: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        """Logits ``[..., n, vocabulary]`` of hidden states ``[..., n, C]``."""
        self._causal.set_output_embeddings(head)
        flat = hidden_states.dim() == 2
        given = hidden_states[None] if flat else hidden_states
        logits = self._causal(inputs_embeds=given, use_cache=False, return_dict=True).logits
        return logits[0] if flat else logits

    def own_loss(
        self,
        head: nn.Module,
        hidden_states: torch.Tensor,
        router_logits: tuple[torch.Tensor, ...] | None,
        attention_mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What the class adds to the cross-entropy, as it weighs it, and what it was before that (transformers' ``aux_loss``):
        scalars; None where it adds nothing.

        Args:
            hidden_states: ``[B, L, C]``.
            router_logits: as the decoder returned them; None where it was not asked for them.
            attention_mask: ``[B, L]``, 1 for tokens and 0 for padding, or None where there is none.
        """
        if router_logits is None:
            return None
        self._causal.set_output_embeddings(head)
        last, label = hidden_states[:, -1:], torch.zeros(len(hidden_states), 1, dtype=torch.int64, device=hidden_states.device)
        options = {"attention_mask": attention_mask, "output_router_logits": True, "labels": label, "use_cache": False}
        self._taken_out.router_logits = router_logits
        try:
            out = self._causal(inputs_embeds=last, return_dict=True, **options)
            return out.loss, out.aux_loss
        finally:
            self._taken_out.router_logits = None


def _nothing(logits: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    return logits.new_zeros((), dtype=torch.float32)


def _is_the_same(decoder_class: Any, expected: Any) -> bool:
    # InternLM2's is a Llama under a name of its own
    return expected is not None and issubclass(expected, decoder_class) and expected.forward is decoder_class.forward
