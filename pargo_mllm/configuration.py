"""Configurations: ParGoProjectorConfig for the projector alone, ParGoConfig for encoder, projector and language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from pargo_kernels.checks import IMPLS
from pargo_kernels.intervals import EDGES, cascade_windows
from pargo_mllm.auto_map import CONFIG_FILE, NamesItsClasses, name_classes
from pargo_mllm.errors import UserError

TOKEN_ORDERS = ("raster", "tiles")
# what the projector's attention can run on: this package's ops, or dense baselines
PROJECTOR_ATTENTION = ("pargo", "sdpa", "eager")
# of weights
DTYPES = ("float32", "bfloat16", "float16", "float64")
# encoders whose tokens are all patches: to drop the first would lose one
WITHOUT_CLASS_TOKEN = ("eva02_clip_vision_model", "siglip_vision_model", "siglip2_vision_model")
# the parts of a configuration that names none, near the paper's: CLIP ViT-L/14 at 336 pixels with its 576 patches, and
# Vicuna-7B v1.5, whose 32,000 tokens are followed by the image token
_CLIP_LARGE_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_VICUNA_7B = {
    "model_type": "llama",
    "vocab_size": 32001,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
}


class LanguageModelError(UserError):
    """A language model that would not be itself behind pictures; the message names its class and what is in the way."""


class ProjectorKind(NamedTuple):
    """What is to be known of a kind of projector before one is built.

    Args:
        where: its class, as ``package.module.Class``; imported when the first one is built.
        a_token_a_feature: it gives as many tokens as there are visual features; others give those that were asked for.
        reads_tiles_together: all tiles of a large picture become one set of tokens.
        reads: of the arguments of :class:`ParGoProjectorConfig`, those that change it; None where nobody says.
    """

    where: str
    a_token_a_feature: bool = False
    reads_tiles_together: bool = False
    reads: tuple[str, ...] | None = None


_LAYERS = (
    "hidden_size",
    "num_hidden_layers",
    "num_partial_tokens",
    "num_global_tokens",
    "initializer_range",
    "output_initializer_range",
)
_BLOCKS = (*_LAYERS, "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps", "query_initializer_range")
_LAYOUT = (
    "partial_global_perception",
    "cascaded_partial_perception",
    "global_self_attention",
    "windows",
    "edge",
    "token_order",
)

PROJECTORS = {
    "pargo": ProjectorKind(
        "pargo_mllm.projectors.pargo.ParGoProjector",
        reads_tiles_together=True,
        reads=(*_BLOCKS, *_LAYOUT, "query_position_embeddings", "kernel_impl"),
    ),
    "qformer": ProjectorKind(
        "pargo_mllm.projectors.qformer.QFormerProjector",
        reads_tiles_together=True,
        reads=(*_BLOCKS, "query_position_embeddings", "kernel_impl"),
    ),
    "linear": ProjectorKind(
        "pargo_mllm.projectors.linear.LinearProjector", a_token_a_feature=True, reads=("initializer_range",)
    ),
    "mlp": ProjectorKind(
        "pargo_mllm.projectors.mlp.MLPProjector", a_token_a_feature=True, reads=("hidden_act", "initializer_range")
    ),
    "resampler": ProjectorKind(
        "pargo_mllm.projectors.resampler.ResamplerProjector", reads_tiles_together=True, reads=(*_BLOCKS, "kernel_impl")
    ),
    "c_abstractor": ProjectorKind("pargo_mllm.projectors.c_abstractor.CAbstractorProjector", reads=_LAYERS),
    "d_abstractor": ProjectorKind(
        "pargo_mllm.projectors.d_abstractor.DAbstractorProjector", reads=(*_BLOCKS, "num_sampling_points")
    ),
}


class ParGoProjectorConfig(PreTrainedConfig):
    """Configuration of a projector: visual features ``[B, n_v, vision_hidden_size]`` to ``[B, tokens, output_size]``.

    Args:
        projector_type: "pargo", "qformer" (the same layers, all tokens global), "linear" or "mlp" (one token a feature),
            "resampler" (Perceiver), "c_abstractor" or "d_abstractor" (Honeybee's, tokens on a grid).
        vision_hidden_size, output_size: widths of the encoder and of the language model; ``ParGoConfig`` fills them in.
        hidden_size: width of the projector's tokens; the encoder's width when None.
        num_hidden_layers: depth ``d``; the paper's is 6.
        num_attention_heads: must divide ``hidden_size``.
        intermediate_size: width of the feed-forward blocks; ``4 * hidden_size`` when None.
        num_partial_tokens, num_global_tokens: ``n_p`` and ``n_g``; the paper's are 288 and 16. Projectors without partial
            tokens have as many as both together.
        feature_grid: rows and columns of the encoder's patches; ``ParGoConfig`` fills it in. For the abstractors, and for
            ``token_order="tiles"``.
        token_order: "raster" gives each partial token a piece of a line of patches (the paper); "tiles" a 2-D tile of them.
        num_sampling_points: of the D-Abstractor, for each head.
        partial_global_perception: False switches the masks of Eq. 1 off: all tokens are global and attend to each other.
        cascaded_partial_perception: False leaves out the self-attention among partial tokens (Eq. 2).
        windows: what a partial token sees in each layer: None for the cascade of Eq. 2, "full" for all partial tokens in
            every layer (the released checkpoint), or one number a layer.
        edge: "clamp" shifts windows inward at the borders (the paper's figure), "truncate" cuts them.
        global_self_attention: global tokens attend among themselves (the released checkpoint); in the paper they bypass
            the cascade.
        query_position_embeddings: add learned positions to the query tokens (the released checkpoint).
        hidden_act, layer_norm_eps, attention_dropout: as in the Q-Former; a dropout other than 0 is refused.
        initializer_range: standard deviation of the weights at the start; narrow projectors learn faster with
            ``hidden_size ** -0.5``.
        query_initializer_range, output_initializer_range: those of the query tokens and of the map to the language model,
            whose word embeddings are small.
        kernel_impl: ``impl`` of the ops: "auto", "triton", "c", "torch" or "reference".

    Raises:
        ValueError: for values that cannot work together; the message names the value, the rule and the way out.
    """

    model_type = "pargo_projector"
    base_config_key = "projector_config"

    projector_type: str = "pargo"
    vision_hidden_size: int | None = None
    output_size: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    intermediate_size: int | None = None
    num_partial_tokens: int = 288
    num_global_tokens: int = 16
    feature_grid: list[int] | None = None
    token_order: str = "raster"
    num_sampling_points: int = 4
    partial_global_perception: bool = True
    cascaded_partial_perception: bool = True
    windows: list[int] | Literal["full"] | None = None
    edge: str = "clamp"
    global_self_attention: bool = False
    query_position_embeddings: bool = False
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    query_initializer_range: float = 0.02
    output_initializer_range: float = 0.02
    kernel_impl: str = "auto"

    def __post_init__(self, **kwargs):
        if self.hidden_size is None:
            self.hidden_size = self.vision_hidden_size
        if self.intermediate_size is None and self.hidden_size is not None:
            self.intermediate_size = 4 * self.hidden_size
        super().__post_init__(**kwargs)
        self._check()

    @property
    def all_tokens_global(self) -> bool:
        """True where no token is partial: a Q-Former, or ParGo with its masks switched off."""
        return self.projector_type == "qformer" or not self.partial_global_perception

    @property
    def layer_windows(self) -> list[int]:
        """The window of each layer."""
        if self.windows is None:
            return cascade_windows(max(1, self.num_partial_tokens), self.num_hidden_layers)
        if self.windows == "full":
            return [max(1, self.num_partial_tokens)] * self.num_hidden_layers
        return list(self.windows)

    @property
    def num_tokens(self) -> int:
        """Learned tokens, partial and global."""
        return self.num_partial_tokens + self.num_global_tokens

    @property
    def reads_tiles_together(self) -> bool:
        """True where all tiles of a large picture become one set of tokens; False where each tile becomes its own."""
        return PROJECTORS[self.projector_type].reads_tiles_together

    def num_output_tokens(self, num_visual_tokens: int) -> int:
        """How many tokens the language model gets for a picture, or a tile of one, of ``num_visual_tokens`` features."""
        return num_visual_tokens if PROJECTORS[self.projector_type].a_token_a_feature else self.num_tokens

    def _check(self) -> None:
        _one_of("projector_type", self.projector_type, tuple(PROJECTORS))
        _one_of("edge", self.edge, EDGES)
        _one_of("token_order", self.token_order, TOKEN_ORDERS)
        _one_of("kernel_impl", self.kernel_impl, IMPLS)
        for name in ("vision_hidden_size", "output_size", "hidden_size", "intermediate_size"):
            value = getattr(self, name)
            if value is not None:
                _at_least(name, value, 1)
        for name in ("num_hidden_layers", "num_attention_heads", "num_sampling_points"):
            _at_least(name, getattr(self, name), 1)
        for name in ("num_partial_tokens", "num_global_tokens"):
            _at_least(name, getattr(self, name), 0)
        for name in ("layer_norm_eps", "initializer_range", "query_initializer_range", "output_initializer_range"):
            _a_number(name, getattr(self, name))
        if self.num_partial_tokens + self.num_global_tokens == 0:
            raise ValueError("num_partial_tokens=0 and num_global_tokens=0 leave nothing to project to; one must be positive.")
        if self.feature_grid is not None:
            if not isinstance(self.feature_grid, (list, tuple)) or len(self.feature_grid) != 2:
                raise ValueError(
                    f"feature_grid={self.feature_grid!r} must be two numbers, the rows and columns of the patches."
                )
            for size in self.feature_grid:
                _at_least("feature_grid", size, 1)
        if self.hidden_size is not None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} does not divide hidden_size={self.hidden_size}; choose a "
                "divisor, or set hidden_size."
            )
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act={self.hidden_act!r} is unknown; see transformers.activations.ACT2FN, or use 'gelu'.")
        if self.attention_dropout != 0:
            raise ValueError(
                f"attention_dropout={self.attention_dropout} is not offered: the attention kernels have none; set it to 0."
            )
        if self.windows is not None and self.windows != "full":
            self._check_windows()

    def _check_windows(self) -> None:
        windows = self.windows
        if not isinstance(windows, (list, tuple)) or len(windows) != self.num_hidden_layers:
            raise ValueError(
                f"windows={windows!r} must be None (the cascade of the paper), 'full', or a list of num_hidden_layers="
                f"{self.num_hidden_layers} numbers."
            )
        for window in windows:
            if not 1 <= window <= max(1, self.num_partial_tokens):
                raise ValueError(
                    f"windows={windows!r} holds {window}; every window must lie in 1...num_partial_tokens="
                    f"{self.num_partial_tokens}."
                )


class ParGoConfig(NamesItsClasses, PreTrainedConfig):
    """Configuration of the whole model: vision encoder, projector and language model.

    Without arguments it has the paper's size: an encoder with 576 patches, six layers of ParGo with 288 + 16 tokens, and
    Vicuna-7B.

    Args:
        vision_config: of EVA-02-CLIP (``pargo_mllm.vision``), or of any CLIP or SigLIP vision model of transformers (a config,
            or a dict with ``model_type``); CLIP ViT-L/14-336 when None.
        projector_config: a :class:`ParGoProjectorConfig` or a dict of its arguments.
        text_config: of any causal language model of transformers; Vicuna-7B when None.
        image_token_id: the token whose embeddings the projected tokens replace.
        vision_feature_layer: -1 for the encoder's last hidden state, or an index into its hidden states.
        vision_feature_select_strategy: "default" drops the encoder's first token, its class token, "full" keeps every token.
            None: "full" for encoders that give out no class token (EVA-02-CLIP, SigLIP), "default" for others.
        part_dtypes: the dtypes of weights whose parts differ in them, by name of the part's configuration, as
            ``{"vision_config": "bfloat16", "projector_config": "float32", "text_config": "bfloat16"}``: saving writes it, and
            loading without a dtype obeys it. None where ``dtype`` is that of all parts.

    Raises:
        ValueError: if the parts do not fit: unknown model types, widths that differ, fewer features than partial tokens.
    """

    model_type = "pargo"
    sub_configs = {  # noqa: RUF012 (transformers reads it from the class)
        "vision_config": AutoConfig,
        "projector_config": ParGoProjectorConfig,
        "text_config": AutoConfig,
    }

    vision_config: Any = None
    projector_config: Any = None
    text_config: Any = None
    image_token_id: int = 32000
    vision_feature_layer: int = -1
    vision_feature_select_strategy: Literal["default", "full"] | None = None
    tie_word_embeddings: bool = False
    part_dtypes: dict[str, str] | None = None

    def __post_init__(self, **kwargs):
        self.vision_config = _sub_config("vision_config", self.vision_config, _CLIP_LARGE_336)
        self.text_config = _sub_config("text_config", self.text_config, _VICUNA_7B)
        if is_composite(self.text_config):
            raise LanguageModelError(
                f"model_type={self.text_config.model_type!r} is made of several parts itself; text_config must be of a model "
                "of text alone: config.get_text_config() gives its own, where it has one."
            )
        if self.vision_feature_select_strategy is None:
            no_class_token = self.vision_config.model_type in WITHOUT_CLASS_TOKEN
            self.vision_feature_select_strategy = "full" if no_class_token else "default"
        projector = self.projector_config if self.projector_config is not None else {}
        if isinstance(projector, dict):
            side = self.vision_config.image_size // self.vision_config.patch_size
            fitting = {
                "vision_hidden_size": self.vision_config.hidden_size,
                "output_size": self.text_config.hidden_size,
                "feature_grid": [side, side],
            }
            given = {key: value for key, value in projector.items() if key not in fitting or value is not None}
            projector = ParGoProjectorConfig(**{**fitting, **given})
        self.projector_config = projector
        self.tie_word_embeddings = self.tie_word_embeddings or bool(getattr(self.text_config, "tie_word_embeddings", False))
        super().__post_init__(**kwargs)
        self._check()

    @property
    def num_visual_tokens(self) -> int:
        """Features that the encoder gives for a picture of its own size, without the class token."""
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2

    @property
    def num_image_tokens(self) -> int:
        """Tokens that the language model gets for a picture."""
        return self.projector_config.num_output_tokens(self.num_visual_tokens)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As transformers does it; the folder says where the classes are (:mod:`pargo_mllm.auto_map`)."""
        super().save_pretrained(save_directory, *args, **kwargs)
        name_classes(Path(save_directory), CONFIG_FILE)

    def dtype_of(self, part: str) -> torch.dtype:
        """Of a part's weights, such as that of "text_config": as they are loaded where no dtype is asked for."""
        own = (self.part_dtypes or {}).get(part, self.dtype)
        return torch.float32 if own is None else own if isinstance(own, torch.dtype) else getattr(torch, own)

    @property
    def _attn_implementation(self):
        return self._attn_implementation_internal

    @_attn_implementation.setter
    def _attn_implementation(self, value):
        PreTrainedConfig._attn_implementation.fset(self, expand_attention(value))

    def _check(self) -> None:
        projector = self.projector_config
        for name, width, part in (
            ("vision_hidden_size", self.vision_config.hidden_size, "vision_config"),
            ("output_size", self.text_config.hidden_size, "text_config"),
        ):
            value = getattr(projector, name)
            if value != width:
                raise ValueError(
                    f"projector_config.{name}={value} does not fit {part}.hidden_size={width}; leave it out and it is taken "
                    "from there."
                )
        grid = projector.feature_grid
        if grid is not None and grid[0] * grid[1] != self.num_visual_tokens:
            raise ValueError(
                f"projector_config.feature_grid={list(grid)} is not the encoder's grid of {self.num_visual_tokens} patches; "
                "leave it out and it is taken from there."
            )
        attends = projector.projector_type == "pargo" and not projector.all_tokens_global
        if attends and projector.num_partial_tokens > self.num_visual_tokens:
            raise ValueError(
                f"num_partial_tokens={projector.num_partial_tokens} exceeds the {self.num_visual_tokens} visual tokens of a "
                f"{self.vision_config.image_size}-pixel picture; use fewer partial tokens or a larger image_size."
            )
        if self.vision_feature_select_strategy == "default" and self.vision_config.model_type in WITHOUT_CLASS_TOKEN:
            raise ValueError(
                f"vision_feature_select_strategy='default' would drop a patch: {self.vision_config.model_type} gives out no "
                "class token; use 'full', or leave it out."
            )
        _one_of("vision_feature_select_strategy", self.vision_feature_select_strategy, ("default", "full"))
        states = self.vision_config.num_hidden_layers + 1
        if type(self.vision_feature_layer) is not int or not -states <= self.vision_feature_layer < states:
            raise ValueError(
                f"vision_feature_layer={self.vision_feature_layer} is outside of the encoder's {states} hidden states; use -1 "
                "for the last one."
            )
        if self.part_dtypes is not None:
            for part, dtype in self.part_dtypes.items():
                _one_of("part_dtypes: the part", part, self.sub_configs)
                _one_of(f"part_dtypes[{part!r}]", dtype, DTYPES)
        if not 0 <= self.image_token_id < self.text_config.vocab_size:
            raise ValueError(
                f"image_token_id={self.image_token_id} is outside the vocabulary of {self.text_config.vocab_size} tokens; add "
                "the image token to the tokenizer, resize the embeddings, and take the token's id."
            )


def is_composite(config: PreTrainedConfig) -> bool:
    """Whether a configuration is of a model that is made of several parts: pictures, sound or an encoder beside its text."""
    try:
        return config.get_text_config() is not config
    except ValueError:
        # several of them are of text
        return True


def expand_attention(value):
    """What a bare ``attn_implementation`` means: a projector's name is for the projector, any other for encoder and LLM.

    The projector runs on its own exact kernels unless it is named: ``{"projector_config": "sdpa"}``.
    """
    if not isinstance(value, str):
        return value
    if value == "pargo":
        return {"projector_config": value}
    return {"": value, "vision_config": value, "text_config": value}


def _sub_config(name: str, value, default: dict[str, Any]):
    if isinstance(value, PreTrainedConfig):
        return value
    fields = dict(default if value is None else value)
    model_type = fields.pop("model_type", default["model_type"])
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{name} has model_type={model_type!r}, which transformers does not know; see transformers.CONFIG_MAPPING."
        )
    return CONFIG_MAPPING[model_type](**fields)


def _one_of(name: str, value, options) -> None:
    if value not in options:
        raise ValueError(f"{name}={value!r} is unknown; it must be one of {', '.join(map(repr, options))}.")


def _a_number(name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"{name}={value!r} must be a number of at least 0.")


def _at_least(name: str, value, minimum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise ValueError(f"{name}={value!r} must be an integer of at least {minimum}.")
