"""Models of transformers that say how well a picture and a text fit, each from a folder, or by its name on a hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    Blip2ForImageTextRetrieval,
    BlipForImageTextRetrieval,
)

from pargo_mllm.errors import UserError
from pargo_mllm.filtering.tokens import TextTokens, Tokens
from pargo_mllm.loading import load_whole
from pargo_mllm.model_files import check_counts, check_files, read_object, told, weight_shapes

# of BLIP's kind: the probability that its matching head gives, or the cosine of its halves; CLIP's kind has the cosine alone
MATCH, COSINE = "match", "cosine"
# of their scores
RANGES = {MATCH: (0.0, 1.0), COSINE: (-1.0, 1.0)}
# one of each kind is in the folder of every model
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_HERE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# of a hub's repository
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


class SimilarityModelError(UserError):
    """A model that cannot be used to compare pictures with texts; the message names it and says why."""


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Args:
        load: the class that is loaded.
        scorer: what computes its scores, by what is measured; the first is the one that is meant where nothing is said.
        fills: see :class:`pargo_mllm.filtering.tokens.TextTokens`.
        ends: whether a text's features are those of its end token.
    """

    load: Any
    scorer: dict[str, Callable[..., Scorer]]
    fills: bool = False
    ends: bool = False


@dataclass(frozen=True)
class Opened:
    """What a folder's model is, before its weights are read.

    Args:
        kind: its ``model_type``.
        measure: :data:`MATCH` or :data:`COSINE`.
    """

    folder: Path
    kind: str
    measure: str


class Scorer:
    """Compares pictures with texts. Computes on the model's device; what it gives is on the CPU.

    Args:
        model: in evaluation mode.
        image_processor, tokens: its own.
        batch: pictures, texts or pairs that are computed at once.
    """

    def __init__(self, model: Any, image_processor: Any, tokens: TextTokens, batch: int):
        self.model, self.image_processor, self.tokens, self.batch = model, image_processor, tokens, batch

    def see(self, picture: Image.Image) -> dict[str, torch.Tensor]:
        """An RGB picture as the model takes it, in a batch of one."""
        return dict(self.image_processor(images=[picture], return_tensors="pt"))

    def look(self, seen: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
        """What the model makes of pictures, [pictures, …]."""
        return self._in_batches(len(seen), lambda part: self._look(self._together(seen[part])))

    def read(self, tokens: Tokens) -> Any:
        """What the model makes of texts without a picture."""
        return self._in_batches(len(tokens.ids), lambda part: self._read(*self._part(tokens, part)))

    def compare(self, looked: torch.Tensor, read: Any, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        """Of each (picture, text), its score, [pairs] in fp32: the largest cosine of the text with what the picture has."""
        pictures, texts = torch.tensor(pairs).T
        return torch.einsum("pqd,pd->pq", looked[pictures], read[texts]).amax(1).numpy()

    def scale(self) -> tuple[float, float]:
        """(scale, bias) by which the model's own logits follow from a score."""
        scale, bias = getattr(self.model, "logit_scale", None), getattr(self.model, "logit_bias", None)
        if hasattr(self.model, "temperature"):
            return 1 / self.model.temperature.item(), 0.0
        return 1.0 if scale is None else scale.exp().item(), 0.0 if bias is None else bias.item()

    def _look(self, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._unit(self.model.get_image_features(**seen).pooler_output)[:, None]

    def _read(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return self._unit(self.model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output)

    def _unit(self, features: torch.Tensor) -> torch.Tensor:
        return normalize(features.float(), dim=-1)

    def _together(self, seen: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        joined = {name: torch.cat([one[name] for one in seen]).to(self.model.device) for name in seen[0]}
        dtype = self.model.dtype
        return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in joined.items()}

    def _part(self, tokens: Tokens, part: slice | list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        ids = tokens.ids[part].to(self.model.device)
        return ids, None if tokens.mask is None else tokens.mask[part].to(self.model.device)

    def _in_batches(self, count: int, work: Callable[[slice], torch.Tensor]) -> torch.Tensor:
        return torch.cat([work(part).cpu() for part in self._parts(count)])

    def _parts(self, count: int) -> Iterator[slice]:
        return (slice(start, start + self.batch) for start in range(0, count, self.batch))


class BlipCosine(Scorer):
    """The two halves of a BLIP retrieval model, each of its own."""

    def _look(self, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        return self._unit(self.model.vision_proj(self.model.vision_model(**seen).last_hidden_state[:, :1]))

    def _read(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        read = self.model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self._unit(self.model.text_proj(read[:, 0]))


class BlipMatch(Scorer):
    """BLIP's text encoder reads the text while it sees the picture; its head says whether they match, from 0 to 1."""

    def read(self, tokens: Tokens) -> Tokens:
        """Nothing is made of a text without its picture."""
        return tokens

    def compare(self, looked: torch.Tensor, read: Tokens, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        """See :class:`Scorer`."""
        device = self.model.device

        def match(part: slice) -> torch.Tensor:
            pictures, texts = zip(*pairs[part], strict=True)
            seen = looked[list(pictures)].to(device)
            logits = self._match(
                seen, torch.ones(seen.shape[:2], dtype=torch.long, device=device), *self._part(read, list(texts))
            )
            return logits.float().softmax(-1)[:, 1]

        return self._in_batches(len(pairs), match).numpy()

    def _look(self, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model.vision_model(**seen).last_hidden_state

    def _match(self, seen: torch.Tensor, seen_mask: torch.Tensor, ids: torch.Tensor, mask: Any) -> torch.Tensor:
        read = self.model.text_encoder(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=seen, encoder_attention_mask=seen_mask
        ).last_hidden_state
        return self.model.itm_head(read[:, 0])


class Blip2Cosine(Scorer):
    """BLIP-2's queries about the picture beside the text, each of its own; the best query counts."""

    def _look(self, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        looked = self.model.vision_model(**seen).last_hidden_state
        queries = self.model.query_tokens.expand(len(looked), -1, -1)
        mask = torch.ones(looked.shape[:2], dtype=torch.long, device=looked.device)
        answered = self.model.qformer(query_embeds=queries, encoder_hidden_states=looked, encoder_attention_mask=mask)
        return self._unit(
            self.model.vision_projection(answered.last_hidden_state.to(self.model.vision_projection.weight.dtype))
        )

    def _read(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        embedded = self.model.embeddings(input_ids=ids)
        read = self.model.qformer(query_embeds=embedded, query_length=0, attention_mask=mask).last_hidden_state
        return self._unit(self.model.text_projection(read[:, 0].to(self.model.text_projection.weight.dtype)))


class Blip2Match(BlipMatch):
    """BLIP-2's queries see picture and text; the mean of what its head says of each."""

    def _match(self, seen: torch.Tensor, seen_mask: torch.Tensor, ids: torch.Tensor, mask: Any) -> torch.Tensor:
        queries = self.model.query_tokens.expand(len(seen), -1, -1)
        count = queries.shape[1]
        whole = torch.cat([torch.ones(len(seen), count, dtype=torch.long, device=ids.device), mask], dim=1)
        read = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=ids, query_embeds=queries),
            query_length=count,
            attention_mask=whole,
            encoder_hidden_states=seen,
            encoder_attention_mask=seen_mask,
        ).last_hidden_state
        return self.model.itm_head(read[:, :count].to(self.model.itm_head.weight.dtype)).mean(1)


_CLIP: dict[str, Callable[..., Scorer]] = {COSINE: Scorer}
FAMILIES = {
    "clip": Family(AutoModel, _CLIP, ends=True),
    "metaclip_2": Family(AutoModel, _CLIP, ends=True),
    "siglip": Family(AutoModel, _CLIP, fills=True),
    "siglip2": Family(AutoModel, _CLIP, fills=True),
    "altclip": Family(AutoModel, _CLIP),
    "chinese_clip": Family(AutoModel, _CLIP),
    "align": Family(AutoModel, _CLIP),
    "blip": Family(BlipForImageTextRetrieval, {MATCH: BlipMatch, COSINE: BlipCosine}),
    "blip-2": Family(Blip2ForImageTextRetrieval, {MATCH: Blip2Match, COSINE: Blip2Cosine}),
}


def is_hub_name(source: str) -> bool:
    """Whether a model is named as hubs name them, and no folder is."""
    return not Path(source).exists() and _HUB.fullmatch(source) is not None


def find_folder(source: str) -> Path:
    """The folder of a model; that of a hub's is downloaded once, its safetensors, configurations and vocabularies alone.

    Raises:
        SimilarityModelError: if there is none.
    """
    if Path(source).is_dir():
        return Path(source)
    if not is_hub_name(source):
        raise SimilarityModelError(f"--model {source} is no folder, nor a name on a hub such as openai/clip-vit-base-patch32.")
    from huggingface_hub import snapshot_download

    with told(f"--model {source}", SimilarityModelError):
        return Path(snapshot_download(source, allow_patterns=list(_FILES), ignore_patterns=["*/*"]))


def look_at(folder: Path, measure: str | None) -> Opened:
    """What a folder holds, without reading its weights.

    Raises:
        SimilarityModelError: if it is no model that compares pictures with texts.
        ModelFolderError: for a damaged one.
    """
    check_files(folder)
    config = read_object(folder / "config.json", SimilarityModelError)
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise SimilarityModelError(
            f"{folder} holds a model of type {kind!r}; pictures are compared with texts by {', '.join(FAMILIES)}."
        )
    sizes = weight_shapes(folder).values()
    with told(folder / "config.json", SimilarityModelError):
        check_counts(config, of_anything=max((side for shape in sizes for side in shape), default=0))
    for what, names in (("tokenizer", _VOCABULARIES), ("image processor", _PROCESSORS)):
        if not any(any(folder.glob(name)) for name in names):
            raise SimilarityModelError(
                f"{folder} holds no {what} ({' or '.join(names)}); it belongs to the model: copy it there."
            )
    if measure is not None and measure not in family.scorer:
        raise SimilarityModelError(
            f"--measure {measure}: {folder} is of type {kind!r}, which gives {' and '.join(family.scorer)} alone; leave it out."
        )
    measure = next(iter(family.scorer)) if measure is None else measure
    return Opened(folder, str(kind), measure)


def open_scorer(opened: Opened, dtype: str, device: str, batch: int) -> Scorer:
    """A folder's model with its tokenizer and its image processor.

    Args:
        dtype: as from_pretrained takes it.

    Raises:
        SimilarityModelError: if it cannot be used; no tensor is a random one.
    """
    folder, family = opened.folder, FAMILIES[opened.kind]
    with told(f"the tokenizer of {folder}", SimilarityModelError):
        tokenizer = AutoTokenizer.from_pretrained(folder, **_HERE)
    with told(f"the image processor of {folder}", SimilarityModelError):
        image_processor = AutoImageProcessor.from_pretrained(folder, **_HERE)
    model = load_whole(family.load, folder, SimilarityModelError, use_safetensors=True, dtype=dtype).eval().to(device)
    with told(f"the tokenizer of {folder}", SimilarityModelError):
        tokens = TextTokens(tokenizer, _longest(model), family.fills, str(folder))
    _check_fit(model, tokens, family, folder)
    scorer = family.scorer[opened.measure](model, image_processor, tokens, batch)
    with told(folder, SimilarityModelError), torch.inference_mode():
        side = 32
        looked = scorer.look([scorer.see(Image.new("RGB", (side + 1, side)))])
        scorer.compare(looked, scorer.read(tokens(["a"])), [(0, 0)])
    return scorer


def _text_config(model: Any) -> Any:
    return model.config.qformer_config if model.config.model_type == "blip-2" else model.config.text_config


def _longest(model: Any) -> int:
    """Tokens of a text that the model has positions for."""
    text = _text_config(model)
    # XLM-R's first position is behind that of what fills up
    return int(text.max_position_embeddings) - (text.pad_token_id + 1 if model.config.model_type == "altclip" else 0)


def _check_fit(model: Any, tokens: TextTokens, family: Family, folder: Path) -> None:
    rows, last = _text_config(model).vocab_size, max(tokens.tokenizer.get_vocab().values())
    if last >= rows:
        raise SimilarityModelError(f"{folder}: the tokenizer has a token {last} and the model embeddings of {rows} tokens.")
    if not family.ends:
        return
    asked, end = model.config.text_config.eos_token_id, tokens.end[0]
    # of configurations that say 2, the end is where the highest token stands
    found = last if asked == 2 and model.config.model_type == "clip" else asked
    if found != end:
        raise SimilarityModelError(
            f"{folder}: the model reads a text at its token {found} (text_config.eos_token_id={asked}), and the tokenizer ends "
            f"texts with token {end}; they do not belong together."
        )
