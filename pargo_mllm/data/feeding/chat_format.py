"""A chat template at work: conversations as text and as tokens, and which of them the assistant says.

What people write is text: a control token that stands in a question or in an answer is spelled out, never obeyed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from transformers.utils.chat_template_utils import render_jinja_template

from pargo_mllm.data.corpus import Conversation
from pargo_mllm.data.feeding.templates import with_parts
from pargo_mllm.errors import UserError

# a noncharacter: Unicode keeps it for what happens inside a program. It is put into control tokens that people wrote, and what
# a tokenizer makes of it is taken out again
BREAK = "\ufdd0"

_MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

Span = tuple[int, int]


class ConversationError(UserError):
    """A conversation that cannot be trained on or answered; the message says why."""


class TemplateRefused(UserError):
    """A chat template that cannot be trained with; the message says what it does and the way out."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text, and where in it the assistant speaks: spans of characters, the end token included."""

    text: str
    said: tuple[Span, ...]


class ChatFormat:
    """A tokenizer and a chat template.

    The template may mark what the assistant says with ``{% generation %}``. Where it does not, the conversation is rendered
    up to each of the assistant's turns, as it is for an answer to be generated: what follows there in the whole conversation
    must be what the turn says, white space in front of it allowed, and a control token that ends it.

    Args:
        tokenizer: a fast one, of the tokenizers library.
        template: a chat template, for text alone or for parts of text and pictures.
        image_token: what a picture is rendered as.
    """

    def __init__(self, tokenizer, template: str, image_token: str):
        self.tokenizer = tokenizer
        self.image_token = image_token
        self.is_marked = _MARK.search(template) is not None
        self.template = template
        if not self._takes_parts():
            self.template = with_parts(template, image_token)

    def render(self, conversation: Conversation) -> Rendered:
        """A conversation that is over.

        Raises:
            ConversationError: if the template refuses it, or what the assistant says is not found where it is due.
        """
        shielded = self._shielded(conversation)
        if self.is_marked:
            return Rendered(*self._rendered(shielded, marked=True))
        text, _ = self._rendered(shielded)
        turns = [index for index, message in enumerate(shielded) if message["role"] == "assistant"]
        return Rendered(text, tuple(self._find(text, shielded, index) for index in turns))

    def prompt(self, conversation: Conversation) -> str:
        """A conversation as text that the assistant's next turn follows.

        Raises:
            ConversationError: if the template refuses it.
        """
        return self._rendered(self._shielded(conversation), prompt=True)[0]

    def tokens(self, rendered: Rendered) -> tuple[list[int], list[bool]]:
        """Token ids of a conversation, and for each whether the assistant says it. Every picture is one token."""
        encoded = self.tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        said = [False] * len(ids)
        for start, end in rendered.said:
            for place, (first, behind) in enumerate(offsets):
                if first < end and behind > start:
                    said[place] = True
        kept = [rendered.text[start:end] != BREAK for start, end in offsets]
        return (
            [token for token, keep in zip(ids, kept, strict=True) if keep],
            [one for one, keep in zip(said, kept, strict=True) if keep],
        )

    def prompt_tokens(self, conversation: Conversation) -> list[int]:
        """Token ids of :meth:`prompt`."""
        return self.tokens(Rendered(self.prompt(conversation), ()))[0]

    @cached_property
    def control_tokens(self) -> re.Pattern:
        """Tokens that nobody says: the tokenizer's special ones, and those added ones that the template writes."""
        added = self.tokenizer.added_tokens_decoder.values()
        control = {token.content for token in added if token.special or token.content in self.template}
        # a picture is asked for by its token; one that is not given is refused where pictures are counted
        names = {*control, *self.tokenizer.all_special_tokens} - {self.image_token, ""}
        longest_first = sorted(names, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def check(self) -> str:
        """Try conversations of one turn and of several, with and without a system turn, with a picture and without.

        Returns:
            The token that ends what the assistant says.

        Raises:
            TemplateRefused: for what the template does that training must not.
        """
        ends = {self._check_one(conversation) for conversation in self._probes()}
        try:
            ends.add(self._check_one(self._probe_with_system()))
        except TemplateRefused:
            # Gemma's and Mistral's have no place for it, or move it: where no mark tells, each conversation is looked at itself
            if self.is_marked and self._takes_system():
                raise
        if len(ends) != 1:
            raise TemplateRefused(f"the chat template ends the assistant's turns with {' and '.join(sorted(ends))}. {_WAY_OUT}")
        return ends.pop()

    def _check_one(self, conversation: Conversation) -> str:
        problem = "the chat template cannot be trained with: "
        try:
            rendered = self.render(conversation)
            ids, said = self.tokens(rendered)
            turns = [index for index, message in enumerate(conversation) if message["role"] == "assistant"]
            prompts = [self.prompt_tokens(conversation[:index]) for index in turns]
        except ConversationError as error:
            raise TemplateRefused(f"{problem}{error} {_WAY_OUT}") from error
        if len(rendered.said) != len(turns):
            raise TemplateRefused(f"{problem}it marks {len(rendered.said)} of {len(turns)} answers. {_WAY_OUT}")
        ends = set()
        for (start, end), turn, prompt in zip(rendered.said, turns, prompts, strict=True):
            answer, marked = conversation[turn]["content"], rendered.text[start:end]
            rest = marked.strip().removeprefix(answer).strip()
            if not marked.strip().startswith(answer) or not self.control_tokens.fullmatch(rest):
                raise TemplateRefused(f"{problem}of the answer {answer!r} it marks {marked!r}. {_WAY_OUT}")
            if ids[: len(prompt)] != prompt or not said[len(prompt)] or (prompt and said[len(prompt) - 1]):
                raise TemplateRefused(
                    f"{problem}the tokens of the prompt for {answer!r} do not stand in front of it in the whole conversation. "
                    + _WAY_OUT
                )
            ends.add(rest)
        if len(ends) != 1:
            raise TemplateRefused(f"{problem}it ends answers with {' and '.join(sorted(ends))}. {_WAY_OUT}")
        return ends.pop()

    def _probes(self) -> list[Conversation]:
        question: dict[str, Any] = {"role": "user", "content": "Which one?"}
        answer: dict[str, Any] = {"role": "assistant", "content": "The left one."}
        shown = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
        more = {"role": "assistant", "content": "Two dogs, I think."}
        return [[question, answer], [shown, answer], [shown, answer, question, more]]

    def _probe_with_system(self) -> Conversation:
        return [{"role": "system", "content": "Be brief."}, *self._probes()[-1]]

    def _takes_system(self) -> bool:
        try:
            self.prompt(self._probe_with_system()[:2])
        except ConversationError:
            return False
        return True

    def _find(self, text: str, conversation: Conversation, turn: int) -> Span:
        start = len(prompt := self._rendered(conversation[:turn], prompt=True)[0])
        says = _plain_text(conversation[turn]["content"])
        if not text.startswith(prompt):
            raise ConversationError(
                f"the template renders what stands in front of turn {turn} otherwise once the assistant has answered."
            )
        place = start + len(text[start:]) - len(text[start:].lstrip()) if not says[:1].isspace() else start
        for spelled in dict.fromkeys((says, says.strip())):
            if text.startswith(spelled, place):
                break
        else:
            raise ConversationError(
                f"the template puts {text[start : start + 40]!r} where the assistant says {says[:40]!r} in turn {turn}."
            )
        behind = place + len(spelled)
        end = self.control_tokens.match(text, behind + len(text[behind:]) - len(text[behind:].lstrip()))
        if end is None:
            raise ConversationError(
                f"no control token of the tokenizer ends turn {turn}: {text[behind : behind + 40]!r} follows."
            )
        return start, end.end()

    def _shielded(self, conversation: Conversation) -> Conversation:
        return [{**message, "content": self._shield(message.get("content"))} for message in conversation]

    def _shield(self, content: Any) -> Any:
        if isinstance(content, str):
            if BREAK in content:
                raise ConversationError(f"a message holds the noncharacter {BREAK!r}, which is no text; take it out.")
            try:
                content.encode()
            except UnicodeEncodeError as error:
                raise ConversationError(f"a message holds half a surrogate pair at character {error.start}.") from error
            return self.control_tokens.sub(lambda found: found[0][:1] + BREAK + found[0][1:], content)
        if isinstance(content, list):
            return [
                {**part, "text": self._shield(part["text"])} if isinstance(part, dict) and "text" in part else part
                for part in content
            ]
        return content

    def _rendered(self, conversation: Conversation, prompt: bool = False, marked: bool = False) -> tuple[str, tuple[Span, ...]]:
        if not conversation:
            return "", ()
        try:
            texts, spans = cast(Any, render_jinja_template)(
                conversations=[conversation],
                chat_template=self.template,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=marked,
                **self.tokenizer.special_tokens_map,
            )
        # a template is a program of a stranger's
        except Exception as error:
            raise ConversationError(f"the chat template refuses the conversation: {' '.join(str(error).split())}") from error
        return texts[0], tuple((start, end) for start, end in spans[0]) if marked else ()

    def _takes_parts(self) -> bool:
        """Whether the template renders a picture among the parts of a message as the image token, and as nothing else."""
        parts = [{"type": "image"}, {"type": "text", "text": "probe"}]
        try:
            text, _ = self._rendered([{"role": "user", "content": parts}])
        except ConversationError:
            return False
        return text.count(self.image_token) == 1 and "'type'" not in text


_WAY_OUT = (
    "Give family= (on the command line --template) the name of a family whose format the model can learn, or a LanguageFamily "
    "with a template that puts {% generation %} … {% endgeneration %} around what the assistant says and its end token."
)


def _plain_text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
