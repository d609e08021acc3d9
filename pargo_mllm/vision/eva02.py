"""EVA-02-CLIP (Fang et al., 2023; Sun et al., 2023), the vision encoder of ParGo, in transformers' form.

A pre-norm vision transformer with 2-D rotary positions beside learned ones, SwiGLU feed-forward blocks, and a LayerNorm
inside each attention and each feed-forward block (sub-LN). ParGo reads the last block before the encoder's own final norm,
through a LayerNorm of its own (``ln_vision``), without the class token.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class Eva02VisionConfig(PreTrainedConfig):
    """Configuration of the encoder; the defaults are EVA-02-CLIP-L/14-336.

    Args:
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads: sizes; ``hidden_size`` must be a multiple of
            ``4 * num_attention_heads``, because a head's width is shared by sine and cosine of two axes.
        num_channels, image_size, patch_size: of the pictures, in pixels; ``patch_size`` divides ``image_size``.
        hidden_act: of the gate.
        layer_norm_eps: of the encoder.
        feature_norm_eps: of ``ln_vision``, after the last block.
        rope_theta: base of the rotary frequencies.
        rope_grid_size: side of the patch grid of the first pretraining. Positions of any grid are scaled to it.
        attention_dropout: must be 0.
        initializer_range: standard deviation of the weights at the start.

    Raises:
        ValueError: for sizes that do not fit each other.
    """

    model_type = "eva02_clip_vision_model"
    base_config_key = "vision_config"

    hidden_size: int = 1024
    intermediate_size: int = 2730
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 336
    patch_size: int = 14
    hidden_act: str = "silu"
    layer_norm_eps: float = 1e-6
    feature_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_grid_size: int = 16
    attention_dropout: float = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.num_attention_heads < 1 or self.hidden_size % (4 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} is no multiple of 4 * num_attention_heads={4 * self.num_attention_heads}, "
                "which the rotary positions of two axes need; change one of them."
            )
        if self.patch_size < 1 or self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size={self.patch_size} does not divide image_size={self.image_size}; choose a multiple of the patch."
            )
        for name in ("layer_norm_eps", "feature_norm_eps", "rope_theta", "rope_grid_size", "initializer_range"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value!r} must be a number of at least 0.")
        if self.attention_dropout != 0:
            raise ValueError(f"attention_dropout={self.attention_dropout} is not offered by this encoder; set it to 0.")

    @property
    def grid_size(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size


def rotary_table(config: Eva02VisionConfig, device=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of the patches' rotary angles, each fp32 ``[n_v, head width]``.

    The first half of a head turns with the row, the second half with the column; neighbouring channels form a pair.
    """
    half = config.hidden_size // config.num_attention_heads // 2
    frequencies = config.rope_theta ** (-torch.arange(0, half, 2, device=device, dtype=torch.float32) / half)
    side = config.grid_size
    positions = torch.arange(side, device=device, dtype=torch.float32) / side * config.rope_grid_size
    angles = (positions[:, None] * frequencies).repeat_interleave(2, dim=-1)  # [side, half]
    rows = angles[:, None].expand(side, side, half)
    columns = angles[None].expand(side, side, half)
    table = torch.cat((rows, columns), dim=-1).flatten(0, 1)
    return table.cos(), table.sin()


def rotate_patches(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn every token of ``[B, H, 1 + n_v, D]`` but the class token, which has no place in the picture."""
    class_token, patches = x[:, :, :1], x[:, :, 1:]
    first, second = patches.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-second, first), dim=-1).flatten(-2)
    return torch.cat((class_token, (patches * cos + turned * sin).to(x.dtype)), dim=2)


def eager_attention(module, query, key, value, attention_mask=None, scaling=1.0, **kwargs):
    """Softmax attention written out, in transformers' calling convention: ``[B, n, H, D]`` and the weights."""
    weights = ((query @ key.transpose(-1, -2)) * scaling).softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


class Eva02Attention(nn.Module):
    """Self-attention with rotary positions and a LayerNorm in front of the output map; the keys have no bias."""

    def __init__(self, config: Eva02VisionConfig):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.inner_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]):
        """``[B, 1 + n_v, C]`` to the same, and the attention weights where the implementation gives them."""
        query, key, value = (
            project(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate_patches(query, *rotary), rotate_patches(key, *rotary)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        attended, weights = attend(self, query, key, value, None, scaling=self.scaling, dropout=0.0, is_causal=False)
        return self.o_proj(self.inner_norm(attended.flatten(2))), weights


class Eva02MLP(nn.Module):
    """SwiGLU with a LayerNorm in front of the output map."""

    def __init__(self, config: Eva02VisionConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.inner_norm = nn.LayerNorm(config.intermediate_size, eps=config.layer_norm_eps)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """``[B, n, C]`` to ``[B, n, C]``."""
        return self.down_proj(self.inner_norm(self.act(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)))


class Eva02Layer(GradientCheckpointingLayer):
    """A pre-norm block."""

    def __init__(self, config: Eva02VisionConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Eva02Attention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Eva02MLP(config)

    def forward(self, hidden_states: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]):
        """``[B, 1 + n_v, C]`` to the same, and the attention weights."""
        attended, weights = self.attention(self.attention_norm(hidden_states), rotary)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.mlp_norm(hidden_states)), weights


class Eva02VisionModel(PreTrainedModel):
    """Pictures ``[B, 3, s, s]`` to the features that ParGo reads, ``[B, n_v, C]``."""

    config_class = Eva02VisionConfig
    config: Eva02VisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities: str | list[str] = ["image"]  # noqa: RUF012 (the type is transformers')
    supports_gradient_checkpointing = True
    _no_split_modules = ["Eva02Layer"]  # noqa: RUF012 (transformers reads it from the class)
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: Eva02VisionConfig):
        super().__init__(config)
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, config.patch_size, config.patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.empty(1, 1 + config.grid_size**2, config.hidden_size))
        self.layers = nn.ModuleList(Eva02Layer(config) for _ in range(config.num_hidden_layers))
        self.ln_vision = nn.LayerNorm(config.hidden_size, eps=config.feature_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The map from pixels to patches."""
        return self.patch_embedding

    def forward(
        self,
        pixel_values: torch.Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> BaseModelOutput:
        """Encode pictures.

        Args:
            pixel_values: ``[B, 3, s, s]`` with ``s = config.image_size``, normalised as CLIP's are.
            output_hidden_states: also return the patches' tokens in front of the first block and after every block, before
                ``ln_vision``, each ``[B, n_v, C]`` without the class token.
            output_attentions: also return the weights ``[B, H, 1 + n_v, 1 + n_v]`` of every block; "eager" attention only.

        Returns:
            ``last_hidden_state`` ``[B, n_v, C]``: the last block, through ``ln_vision``, without the class token.

        Raises:
            ValueError: for pictures of another size.
        """
        side, channels = self.config.image_size, self.config.num_channels
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != (channels, side, side):
            raise ValueError(
                f"pixel_values has shape {list(pixel_values.shape)}; it must be [pictures, {channels}, {side}, {side}]: resize "
                "the pictures, or cut larger ones into tiles (ParGoProcessor's max_tiles)."
            )
        # the patches of raw pixels may come in another precision than the weights
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_token.expand(len(patches), -1, -1), patches), dim=1) + self.position_embeddings
        rotary = rotary_table(self.config, tokens.device)
        states, attentions = [tokens[:, 1:]], []
        for layer in self.layers:
            tokens, weights = layer(tokens, rotary)
            states.append(tokens[:, 1:])
            attentions.append(weights)
        return BaseModelOutput(
            last_hidden_state=self.ln_vision(tokens[:, 1:]),
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, Eva02VisionModel):
            init.normal_(module.class_token, mean=0.0, std=self.config.initializer_range)
            init.normal_(module.position_embeddings, mean=0.0, std=self.config.initializer_range)
