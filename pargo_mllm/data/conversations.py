"""Conversations as token ids with the answers marked.

Labels come from the generation marks of the chat template, never from counting or searching tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pargo_mllm.data.samples import Question

Conversation = list[dict[str, Any]]


@dataclass(frozen=True)
class EncodedConversation:
    """``input_ids`` with every image placeholder expanded, and which of them the assistant says (the end token included)."""

    input_ids: tuple[int, ...]
    is_answer: tuple[bool, ...]


def about_image(prompt: str, answer: str) -> Conversation:
    """A conversation of one turn about one picture."""
    return [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


class ConversationEncoder:
    """Encodes (prompt, answer) pairs about one picture; equal pairs are encoded once and kept.

    Gives the ids that ``processor.apply_chat_template(conversation with the picture, tokenize=True)`` gives, without
    needing the picture.

    Raises:
        ValueError: if the chat template has no ``{% generation %}`` marks.
    """

    def __init__(self, processor):
        template = processor.chat_template
        if not isinstance(template, str) or "generation %}" not in template.replace("generation -%}", "generation %}"):
            raise ValueError(
                "the processor's chat template has no {% generation %} marks, from which labels are made: put "
                "{% generation %} … {% endgeneration %} around what the assistant says (its end token included)."
            )
        self.processor = processor
        self._known: dict[tuple[str, str], EncodedConversation] = {}

    def encode(self, pairs: list[tuple[str, str]]) -> list[EncodedConversation]:
        """Encode pairs of prompt and answer."""
        unknown = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if unknown:
            self._known.update(zip(unknown, self._encode([about_image(*pair) for pair in unknown]), strict=True))
        return [self._known[pair] for pair in pairs]

    def encode_questions(self, questions: tuple[Question, ...]) -> list[EncodedConversation]:
        """Encode questions with their answers."""
        return self.encode([(question.text, question.answer) for question in questions])

    def _encode(self, conversations: list[Conversation]) -> list[EncodedConversation]:
        batch = self.processor.tokenizer.apply_chat_template(
            conversations,
            chat_template=self.processor.chat_template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        rows = zip(batch["input_ids"], batch["assistant_masks"], strict=True)
        return [self._expand(ids, mask) for ids, mask in rows]

    def _expand(self, ids: list[int], mask: list[int]) -> EncodedConversation:
        input_ids: list[int] = []
        is_answer: list[bool] = []
        for token, said in zip(ids, mask, strict=True):
            repeats = self.processor.num_image_tokens if token == self.processor.image_token_id else 1
            input_ids += [token] * repeats
            is_answer += [bool(said)] * repeats
        return EncodedConversation(tuple(input_ids), tuple(is_answer))
