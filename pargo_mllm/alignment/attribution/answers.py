"""From an answer to the picture's tokens that it comes from, and from there to patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pargo_mllm.alignment.attribution.asked import Asked, answer_logits, answered, read
from pargo_mllm.alignment.attribution.result import Attribution, AttributionError, check_derivable, shares_of
from pargo_mllm.alignment.errors import check_finite
from pargo_mllm.answering.prompt_attention import NoAttentionError, attention_to_prompt
from pargo_mllm.data.corpus import Conversation
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor

#: the methods, and what each says
ANSWER_METHODS = {
    "gradient": "gradient times input, from the mean token: what each token adds to the answer's log-odds, to first order",
    "attention": "the language model's attention to each token of the picture, mean of heads, layers and the answer's tokens",
}


@dataclass(frozen=True)
class AnswerAttribution:
    """Which of a picture's tokens an answer comes from, by one method; a hint, for neither is exact.

    Args:
        method: of :data:`ANSWER_METHODS`.
        tokens: fp32 ``[tokens]`` on the CPU. By gradient in nats of the answer's log-odds, with signs: what speaks
            for the answer is positive. By
            attention the share of it; the rest went to the text.
        log_probability: of the answer, in nats.
        said: whether it is what the model says greedily.
    """

    method: str
    tokens: torch.Tensor
    log_probability: float
    said: bool

    @property
    def order(self) -> torch.Tensor:
        """The tokens from the one that speaks most for the answer on, int64 ``[tokens]``."""
        return self.tokens.argsort(descending=True, stable=True)

    def patches(self, origins: Attribution) -> torch.Tensor:
        """Carried on to the patches: ``[n_v]``, sums to 1. Each token's size is shared out over what it comes from.

        Raises:
            AttributionError: for a map of another number of tokens.
        """
        if len(origins.shares) != len(self.tokens):
            raise AttributionError(
                f"the map is of {len(origins.shares)} tokens and the answer's of {len(self.tokens)}: both must be of one "
                "picture in the same model."
            )
        carried = shares_of(self.tokens) @ origins.shares
        return shares_of(carried)


def attribute_answer(
    model: ParGoForConditionalGeneration,
    processor: ParGoProcessor,
    conversation: Conversation,
    answer: str,
    method: str = "gradient",
) -> AnswerAttribution:
    """Which tokens of the picture an answer comes from.

    The gradient is that of the answer's log-odds, the sum over its tokens: that of its log-probability vanishes where the model
    is sure. It is multiplied with what a token has beyond the mean of the picture's tokens (our choice): language models
    normalise what they read, so that a step towards zero changes nothing of it. The language model computes in its own dtype;
    probabilities, products and sums are in fp32.

    Args:
        conversation: of one picture, the question at its end.
        answer: what the model said, or should have said.

    Raises:
        AttributionError: for an unknown method, no picture or several, and a language model without attention.
        AlignmentError: where the model's figures are not finite.
        ConversationError: for a conversation that cannot be answered, and an answer that the tokenizer cannot spell.
        PictureError: for a picture that cannot be used.
    """
    return of_asked(model, read(model, processor, conversation, answer), method)


def of_asked(model: ParGoForConditionalGeneration, asked: Asked, method: str) -> AnswerAttribution:
    """The same for a question that has been read."""
    if method not in ANSWER_METHODS:
        raise AttributionError(f"method={method!r} traces no answer; there are {', '.join(ANSWER_METHODS)}.")
    was_training = model.training
    model.eval()
    try:
        tokens = (_by_gradient if method == "gradient" else _by_attention)(model, asked)
        with torch.no_grad():
            log_probability, said = answered(model, asked.embeddings[None], asked.answer)
    except NoAttentionError as error:
        raise AttributionError(f"method='attention' is not possible: {error}; use 'gradient'.") from error
    finally:
        model.train(was_training)
    check_finite(
        torch.cat((tokens, log_probability.float().cpu()))[:, None], "what tokens add to an answer, and its log-probability"
    )
    return AnswerAttribution(method, tokens, log_probability.item(), bool(said))


def _by_gradient(model: ParGoForConditionalGeneration, asked: Asked) -> torch.Tensor:
    check_derivable(model)
    with torch.inference_mode(False), torch.enable_grad():
        tokens = asked.tokens.clone().requires_grad_()
        embeddings = asked.embeddings.clone().index_copy(0, asked.places, tokens)
        logits = answer_logits(model, embeddings[None], asked.answer)[0]
        own = asked.answer.to(logits.device)[:, None]
        others = logits.scatter(-1, own, float("-inf")).logsumexp(dim=-1)
        (slope,) = torch.autograd.grad((logits.gather(-1, own)[:, 0] - others).sum(), tokens)
    values = tokens.detach().float()
    return (slope.float() * (values - values.mean(dim=0))).sum(dim=-1).cpu()


def _by_attention(model: ParGoForConditionalGeneration, asked: Asked) -> torch.Tensor:
    weights = torch.from_numpy(attention_to_prompt(model, asked.inputs, list(asked.said)))
    return weights[asked.places.cpu()].float()
