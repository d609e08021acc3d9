"""How many tokens a sample has: the model's own tokenizer, template and picture tokens, as training counts them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pargo_mllm.data.corpus import Conversation
from pargo_mllm.data.feeding.conversations import ConversationEncoder
from pargo_mllm.data.feeding.packing import pack
from pargo_mllm.data.frames import Size
from pargo_mllm.loading import check_model_folder, open_config, open_processor
from pargo_mllm.positions import max_positions


class Lengths:
    """Tokens of samples.

    Args:
        model: folder of a model; only its configuration and its processor are opened.
        template: "chat" or "plain".

    Attributes:
        positions: of the language model; None where it names no end.

    Raises:
        ModelFolderError: if the folder is none.
    """

    def __init__(self, model: Path, template: str):
        check_model_folder(model)
        config = open_config(model)
        self.positions = max_positions(config.text_config)
        self.processor = open_processor(model, config)
        self._encoder = ConversationEncoder(self.processor, template)

    def of(self, conversation: Conversation, sizes: list[Size]) -> int:
        """Tokens of a conversation whose pictures have these sizes, (width, height) in pixels.

        Raises:
            ConversationError: if the template refuses it.
        """
        tiles = [self.processor.num_tiles(int(height), int(width)) for width, height in sizes]
        return len(pack(self._encoder.encode_conversations([conversation], tiles), self.processor.image_token_id))


@lru_cache(maxsize=1)
def lengths_of(model: Path, template: str) -> Lengths:
    """:class:`Lengths`, opened once a process."""
    return Lengths(model, template)
