"""The released ParGo projector in this package's form. The release stores it under the names of a BERT Q-Former."""

from __future__ import annotations

import re

import torch

from pargo_mllm.checkpoints.container import CheckpointError, fill, plain_tensors
from pargo_mllm.configuration import ParGoProjectorConfig
from pargo_mllm.projectors.pargo import ParGoProjector

# names in the release, below ParGo.bert.encoder.layer.{i} -> names here, below layers.{i}
_LAYER_NAMES = {
    "attention.self.query": "self_attention.q_proj",
    "attention.self.key": "self_attention.k_proj",
    "attention.self.value": "self_attention.v_proj",
    "attention.output.dense": "self_attention.o_proj",
    "attention.output.LayerNorm": "self_attention_norm",
    "crossattention.self.query": "cross_attention.q_proj",
    "crossattention.self.key": "cross_attention.k_proj",
    "crossattention.self.value": "cross_attention.v_proj",
    "crossattention.output.dense": "cross_attention.o_proj",
    "crossattention.output.LayerNorm": "cross_attention_norm",
    "intermediate_query.dense": "mlp.fc1",
    "output_query.dense": "mlp.fc2",
    "output_query.LayerNorm": "mlp_norm",
}
_LAYER = re.compile(r"ParGo\.bert\.encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")
_NAMES = {
    "query_tokens": "query_tokens",
    "ParGo.bert.embeddings.position_embeddings.weight": "position_embeddings",
    "ParGo.bert.embeddings.LayerNorm.weight": "layer_norm.weight",
    "ParGo.bert.embeddings.LayerNorm.bias": "layer_norm.bias",
    "llm_proj.weight": "output_proj.weight",
    "llm_proj.bias": "output_proj.bias",
}
_RELEASED_LAYER_NAMES = {new: old for old, new in _LAYER_NAMES.items()}
_RELEASED_NAMES = {new: old for old, new in _NAMES.items()}
# constants that the release happens to store
_WITHOUT_CONTENT = ("ParGo.bert.embeddings.position_ids",)
_PREFIXES = ("ParGo.", "llm_proj.", "query_tokens")


def convert_released_projector(
    state_dict: dict[str, torch.Tensor], num_partial_tokens: int, num_attention_heads: int
) -> ParGoProjector:
    """Build the projector of a released checkpoint.

    The release differs from the paper: one full band instead of the cascade, self-attention among the global tokens, and
    learned positions of the query tokens. Depth and widths are read from the tensors; the number of partial tokens and of
    heads is not in them. Without ``llm_proj`` in the checkpoint the linear map is the identity, so that the projector
    returns the last hidden state.

    Args:
        state_dict: the released tensors, or a whole model's: names that are no projector's are ignored. Containers
            ``{"state_dict": …}`` and ``{"model": …}`` and a ``module.`` prefix are understood.
        num_partial_tokens: ``n_p``.
        num_attention_heads: heads of both attentions.

    Raises:
        CheckpointError: a ValueError; if a tensor of the projector is missing, or one has a name that is not understood.
    """
    released = projector_tensors(state_dict)
    num_tokens, hidden_size = released["query_tokens"].shape[-2:]
    layers = {int(match[1]) for name in released if (match := _LAYER.fullmatch(name))}
    output_size = released["llm_proj.weight"].shape[0] if "llm_proj.weight" in released else hidden_size
    first = "ParGo.bert.encoder.layer.0"
    config = ParGoProjectorConfig(
        projector_type="pargo",
        vision_hidden_size=_tensor(released, f"{first}.crossattention.self.key.weight").shape[1],
        output_size=output_size,
        hidden_size=hidden_size,
        num_hidden_layers=max(layers) + 1,
        num_attention_heads=num_attention_heads,
        intermediate_size=_tensor(released, f"{first}.intermediate_query.dense.weight").shape[0],
        num_partial_tokens=num_partial_tokens,
        num_global_tokens=num_tokens - num_partial_tokens,
        windows="full",
        global_self_attention=True,
        query_position_embeddings=True,
        layer_norm_eps=1e-12,
    )
    with torch.device("meta"):
        projector = ParGoProjector(config)
    if not any(name.startswith("llm_proj.") for name in released):
        released["llm_proj.weight"], released["llm_proj.bias"] = torch.eye(hidden_size), torch.zeros(hidden_size)
    fill(projector, _rename(released, num_tokens), "projector", _released_name)
    return projector.eval()


def used_by_projector(name: str) -> bool:
    """Whether a released tensor enters the projector."""
    match = _LAYER.fullmatch(name)
    return name in _NAMES or bool(match and match[2] in _LAYER_NAMES)


def projector_tensors(state_dict: dict) -> dict[str, torch.Tensor]:
    """The projector's tensors of a released checkpoint under their released names, out of any container it comes in."""
    plain = plain_tensors(state_dict)
    found = {name: tensor for name, tensor in plain.items() if name.startswith(_PREFIXES) and name not in _WITHOUT_CONTENT}
    _tensor(found, "query_tokens")
    return found


def _rename(released: dict[str, torch.Tensor], num_tokens: int) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in released.items():
        match = _LAYER.fullmatch(name)
        if match and match[2] in _LAYER_NAMES:
            renamed[f"layers.{match[1]}.{_LAYER_NAMES[match[2]]}.{match[3]}"] = tensor
        elif name in _NAMES:
            renamed[_NAMES[name]] = tensor
        else:
            raise CheckpointError(
                f"{name!r} is no tensor of the released projector; remove it, or convert the file it belongs to."
            )
    # the table has a row for every position that BERT allows; the tokens use the first
    if "position_embeddings" in renamed:
        renamed["position_embeddings"] = renamed["position_embeddings"][None, :num_tokens]
    return renamed


def _released_name(name: str) -> str:
    match = re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if match:
        return f"ParGo.bert.encoder.layer.{match[1]}.{_RELEASED_LAYER_NAMES[match[2]]}.{match[3]}"
    return _RELEASED_NAMES[name]


def _tensor(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in tensors:
        raise CheckpointError(f"the checkpoint has no tensor {name!r}; it is not a released ParGo projector.")
    return tensors[name]
