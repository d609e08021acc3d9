"""A question about one picture and an answer to it, as the language model reads them: open to changes of single tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pargo_mllm.alignment.attribution.result import AttributionError
from pargo_mllm.answering.prompts import rated_prompt
from pargo_mllm.data.corpus import Conversation
from pargo_mllm.data.feeding.chat_format import ConversationError
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.positions import max_positions
from pargo_mllm.processing import ParGoProcessor


@dataclass(frozen=True)
class Asked:
    """A question with its answer.

    Args:
        embeddings: ``[L, C]``, the prompt with the picture's tokens in their places, then the answer.
        places: int64 ``[tokens]``, where the picture's tokens stand.
        answer: int64 ``[A]``, the answer's tokens without the one that ends it: the last ``A`` of ``L``.
        features: ``[tiles, n_v, c]``, what the encoder gave for the picture.
        inputs: the prompt alone, as ``processor.prompts`` gives it.
        said: the tokens behind the prompt up to the answer's last but one: what a template puts in front of the answer too.
    """

    embeddings: torch.Tensor
    places: torch.Tensor
    answer: torch.Tensor
    features: torch.Tensor
    inputs: Any
    said: tuple[int, ...] = ()

    @property
    def tokens(self) -> torch.Tensor:
        """The picture's tokens ``[tokens, C]``."""
        return self.embeddings[self.places]


def read(model: ParGoForConditionalGeneration, processor: ParGoProcessor, conversation: Conversation, answer: str) -> Asked:
    """A conversation of one picture, the question at its end, and an answer.

    Raises:
        AttributionError: for a conversation of no picture, or of several.
        ConversationError: for one that is too long or refused by the template, or an answer that the tokenizer cannot spell.
        PictureError: for a picture that cannot be used.
    """
    if not isinstance(answer, str) or not answer.strip():
        raise ConversationError(f"the answer {answer!r} is no text; it must be what the model says, or should say.")
    # tensors of inference mode take no part in derivatives
    with torch.inference_mode(False), torch.no_grad():
        return _read(model, processor, conversation, answer)


def _read(model: ParGoForConditionalGeneration, processor: ParGoProcessor, conversation: Conversation, answer: str) -> Asked:
    inputs = processor.prompts([conversation]).to(model.device)
    prompt, image = rated_prompt(processor.chat_format, conversation, answer), processor.image_token_id
    if image in prompt.ids[-prompt.rated :]:
        raise ConversationError(f"the answer {answer!r} holds {processor.image_token}, which stands for a picture.")
    if processor.tokenizer.unk_token_id in prompt.ids[-prompt.rated :]:
        raise ConversationError(f"the tokenizer has no tokens for a part of the answer {answer!r}: it cannot be said.")
    if (pictures := prompt.ids.count(image)) != 1:
        raise AttributionError(f"the conversation shows {pictures} pictures; what an answer comes from is told of one.")
    num_tokens = int((inputs["input_ids"] == image).sum())
    row = [token for one in prompt.ids for token in ([one] * num_tokens if one == image else [one])]
    most = max_positions(model.config.text_config)
    if most is not None and len(row) > most:
        raise ConversationError(f"the question with its answer has {len(row)} tokens and the language model takes {most}.")
    ids = torch.tensor([row], device=model.device)
    seen: Any = model.get_image_features(inputs["pixel_values"], tile_counts=inputs.get("tile_counts"))
    words = model.get_input_embeddings()(ids)
    embeddings = model.model.insert_image_tokens(ids, words, seen.pooler_output.flatten(0, 1)[None])[0]
    own, asked = ids[0, -prompt.rated :], inputs["input_ids"][0].tolist()
    # where the prompt's end and the answer's beginning make one token, the answer's own are what is said
    said = row[len(asked) : -1] if row[: len(asked)] == asked else own[:-1].tolist()
    return Asked(embeddings, (ids[0] == image).nonzero()[:, 0], own, seen.last_hidden_state, inputs, tuple(said))


def answer_logits(
    model: ParGoForConditionalGeneration,
    embeddings: torch.Tensor,
    answer: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """What the model would say in place of each of an answer's tokens: logits, fp32 ``[rows, A, vocabulary]``.

    Args:
        embeddings: ``[rows, L, C]``, the answer at their ends.
        answer: int64 ``[A]``.
        mask: int64 ``[rows, L]``, 0 for tokens that nobody may see; places are counted all the same.
    """
    given: dict[str, Any] = {"attention_mask": torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)}
    if mask is not None:
        places = torch.arange(embeddings.shape[1], device=embeddings.device).expand(len(embeddings), -1)
        given = {"attention_mask": mask, "position_ids": places}
    out = model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=len(answer) + 1, **given)
    return out.logits[:, :-1].float()


def answered(
    model: ParGoForConditionalGeneration,
    embeddings: torch.Tensor,
    answer: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """How likely an answer is behind each of several prompts; arguments as for :func:`answer_logits`.

    Returns:
        The log-probability of the whole answer, fp32 ``[rows]`` in nats, and whether each of its tokens is the likeliest one
        where it stands, bool ``[rows]``: then it is what is said greedily.
    """
    logits = answer_logits(model, embeddings, answer, mask)
    wanted = answer.to(logits.device).expand(len(logits), -1)
    # no second copy of rows x answer x vocabulary
    log_probability = (logits.gather(-1, wanted[..., None])[..., 0] - logits.logsumexp(dim=-1)).sum(dim=-1)
    # it stands for a picture that is given, and nothing that is said
    logits[..., model.config.image_token_id] = float("-inf")
    return log_probability, (logits.argmax(dim=-1) == wanted).all(dim=-1)
