"""Prompts that show the same pictures: what they have in common is read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from pargo_mllm.data.corpus import Conversation
from pargo_mllm.data.feeding.chat_format import ChatFormat, ConversationError, Rendered


@dataclass(frozen=True)
class Prompt:
    """What a model reads before it answers, or with a choice behind it.

    Args:
        ids: token ids, every picture as one image token.
        pictures: open the RGB pictures, in the order in which the text shows them.
        group: prompts with the same one show the same pictures.
        rated: of a ranking, how many of the last ids are the choice whose loss is wanted; 0 for a prompt to be answered.
    """

    ids: tuple[int, ...]
    pictures: tuple[Callable[[], Image.Image], ...] = ()
    group: str = ""
    rated: int = 0

    @property
    def leads(self) -> int:
        """How many ids stand in front of what has to be computed for this prompt alone: all but the last, or up to the choice,
        whose first token is foretold by what stands in front of it."""
        return len(self.ids) - max(1, self.rated + 1)


def common_lead(prompts: Sequence[Prompt]) -> int:
    """How many of the first ids all prompts share, one at least being left to each."""
    first, most = prompts[0].ids, min(prompt.leads for prompt in prompts)
    for place in range(most):
        if any(prompt.ids[place] != first[place] for prompt in prompts):
            return place
    return most


def rated_prompt(
    chat_format: ChatFormat,
    conversation: Conversation,
    choice: str,
    openers: tuple[Callable[[], Image.Image], ...] = (),
    group: str = "",
) -> Prompt:
    """A choice said as the answer, without the token that ends it.

    Raises:
        ConversationError: if the choice has no token of its own behind the prompt.
    """
    answer = {"role": "assistant", "content": [{"type": "text", "text": choice}]}
    rendered = chat_format.render([*conversation, answer])
    start, end = rendered.said[-1]
    marked = rendered.text[start:end]
    ends = [found.start() for found in chat_format.control_tokens.finditer(marked)]
    marked = marked[: ends[-1]] if ends else marked
    first, behind = start + len(marked) - len(marked.lstrip()), start + len(marked.rstrip())
    ids, said = chat_format.tokens(Rendered(rendered.text[:behind], ((first, behind),)))
    if not any(said):
        raise ConversationError(f"the choice {choice!r} has no token.")
    return Prompt(tuple(ids), openers, group, rated=sum(said))
