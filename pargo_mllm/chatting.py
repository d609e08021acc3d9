"""Talking with a model about pictures, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from transformers.generation.streamers import BaseStreamer

from pargo_mllm.answering import answer
from pargo_mllm.modeling import ParGoForConditionalGeneration
from pargo_mllm.processing import ParGoProcessor


class Chat:
    """One conversation.

    Args:
        pictures: shown in front of the first question; none for text alone.
        system: what the model is told before the conversation; the template's own where None.
        generation: settings of ``model.generate`` on top of the model's own.
    """

    def __init__(
        self,
        model: ParGoForConditionalGeneration,
        processor: ParGoProcessor,
        pictures: Sequence[Image.Image] = (),
        system: str | None = None,
        generation: dict[str, Any] | None = None,
    ):
        self.model = model
        self.processor = processor
        self.generation = dict(generation or {})
        self._pending = [{"type": "image", "image": picture} for picture in pictures]
        self.messages: list[dict[str, Any]] = []
        if system is not None:
            self.messages.append({"role": "system", "content": [{"type": "text", "text": system}]})

    def ask(self, question: str, streamer: BaseStreamer | None = None) -> str:
        """The answer to a question, which knows all turns before it. Where asking fails, the turn is as if never asked.

        Args:
            streamer: gets the tokens as they are generated.

        Raises:
            ValueError: if the question holds the image token, for which there is no picture.
        """
        turn = {"role": "user", "content": [*self._pending, {"type": "text", "text": question}]}
        (said,) = answer(self.model, self.processor, [[*self.messages, turn]], streamer=streamer, **self.generation)
        self._pending = []
        self.messages += [turn, {"role": "assistant", "content": [{"type": "text", "text": said}]}]
        return said
