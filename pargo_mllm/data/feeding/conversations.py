"""Conversations as token ids with the answers marked.

Labels come from where the chat template puts what the assistant says, never from counting or searching tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from pargo_mllm.data.corpus import Conversation
from pargo_mllm.data.feeding.chat_format import ChatFormat, ConversationError
from pargo_mllm.data.feeding.templates import PLAIN

TEMPLATES = ("chat", "plain")
# tokens of conversations: a few dozen MB for each process that reads
KEPT_TOKENS = 1 << 20


@dataclass(frozen=True)
class EncodedConversation:
    """``input_ids`` with every image placeholder expanded, and which of them the assistant says (the end token included)."""

    input_ids: tuple[int, ...]
    is_answer: tuple[bool, ...]


class ConversationEncoder:
    """Encodes conversations of any number of turns, with pictures anywhere or none.

    Gives the ids that ``processor.apply_chat_template(conversation with the pictures, tokenize=True)`` gives, without needing
    the pictures. What was encoded last is kept: epochs, and questions that many pictures share, encode a conversation once.

    Args:
        template: "chat" is the processor's chat template. "plain" is for captions, as LLaVA's first stage has them: the
            pictures and what the assistant says with the end token, which alone is learned; what the user says is left out.

    Raises:
        TemplateRefused: for a chat template without ``{% generation %}`` marks in which what the assistant says is not found.
    """

    def __init__(self, processor, template: str = "chat"):
        if template not in TEMPLATES:
            raise ValueError(f"template={template!r} is unknown; it must be one of {', '.join(map(repr, TEMPLATES))}.")
        self.format = ChatFormat(
            processor.tokenizer, PLAIN if template == "plain" else processor.chat_template, processor.image_token
        )
        if not self.format.is_marked:
            self.format.check()
        self.processor = processor
        self._kept: OrderedDict[str, EncodedConversation] = OrderedDict()
        self._kept_tokens = 0

    def encode_conversations(
        self, conversations: Sequence[Conversation], tile_counts: Sequence[int] | None = None
    ) -> list[EncodedConversation]:
        """Encode conversations.

        Args:
            conversations: messages in transformers' form, a picture as the part ``{"type": "image"}``.
            tile_counts: of the pictures that each of the conversations shows, how many tiles each is cut into; any number of
                pictures of one tile when None.

        Raises:
            ConversationError: if a conversation shows another number of pictures, or the template refuses it.
        """
        tiles = None if tile_counts is None else list(tile_counts)
        keys = [repr((tiles, conversation)) for conversation in conversations]
        missing = {key: conversation for key, conversation in zip(keys, conversations, strict=True) if key not in self._kept}
        for key, encoded in zip(missing, self._encode(list(missing.values()), tile_counts), strict=True):
            self._kept[key] = encoded
            self._kept_tokens += len(encoded.input_ids)
        found = [self._kept[key] for key in keys]
        for key in keys:
            self._kept.move_to_end(key)
        while self._kept_tokens > KEPT_TOKENS:
            self._kept_tokens -= len(self._kept.popitem(last=False)[1].input_ids)
        return found

    def _encode(self, conversations: list[Conversation], tile_counts: Sequence[int] | None) -> list[EncodedConversation]:
        tokens = (self.format.tokens(self.format.render(conversation)) for conversation in conversations)
        return [self._expand(ids, said, tile_counts) for ids, said in tokens]

    def _expand(self, ids: list[int], mask: list[bool], tile_counts: Sequence[int] | None) -> EncodedConversation:
        image_token_id = self.processor.image_token_id
        shown = ids.count(image_token_id)
        if tile_counts is not None and shown != len(tile_counts):
            raise ConversationError(
                f"the conversation shows {shown} pictures and has {len(tile_counts)}; they must be equal (the text "
                f"{self.processor.image_token!r} in a message counts as one)."
            )
        tiles = iter([1] * shown if tile_counts is None else tile_counts)
        input_ids: list[int] = []
        is_answer: list[bool] = []
        for token, is_said in zip(ids, mask, strict=True):
            is_image = token == image_token_id
            repeats = self.processor.num_placeholders(next(tiles)) if is_image else 1
            input_ids += [token] * repeats
            # a placeholder stands for a picture that is given, and nothing that is said
            is_answer += [is_said and not is_image] * repeats
        return EncodedConversation(tuple(input_ids), tuple(is_answer))
