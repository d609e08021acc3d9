"""Questions about things whose place is known: what the causal check asks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from pargo_mllm.alignment.ablation import CausalQuestion
from pargo_mllm.alignment.segmentation import COVERED
from pargo_mllm.data.corpus import Conversation

_WORD = re.compile(r"\w+")


def questions_about_things(
    conversations: Sequence[Conversation],
    picture: Image.Image,
    coverage: Mapping[str, torch.Tensor],
    group: str,
    most: int,
    seed: int,
) -> list[CausalQuestion]:
    """At most ``most`` of what is asked first in conversations, of which question and answer name things of the picture.

    Our choice: what is named lies where all that is named is ("red" and "circle": where a red circle is), and a question whose
    things share no patch, as a caption's do, is left out. The control of a question is the next one about another place.

    Args:
        conversations: of one picture.
        coverage: by name, ``[n_v]``.
        group: what the picture is called.
        seed: of which questions are taken, where there are more.
    """
    known = {f" {' '.join(_words(name))} ": covered for name, covered in coverage.items()}
    found: list[tuple[Conversation, str, torch.Tensor]] = []
    for conversation in conversations:
        turn = _first_turn(conversation)
        if turn is None:
            continue
        asked, answer = turn
        told = f" {' '.join(_words(f'{_text(asked)} {answer}'))} "
        named = [covered for name, covered in known.items() if name in told]
        if not named:
            continue
        together = torch.stack(named).amin(dim=0)
        if float(together.amax()) >= COVERED:
            found.append(([_with_picture(asked, picture)], answer, together))
    order = np.random.default_rng([seed, 15]).permutation(len(found))[:most]
    taken = [found[place] for place in order]
    return [
        CausalQuestion(conversation, answer, together, _control(place, taken), group)
        for place, (conversation, answer, together) in enumerate(taken)
    ]


def _control(place: int, taken: Sequence[tuple[Conversation, str, torch.Tensor]]) -> tuple[Conversation, str] | None:
    mine = taken[place][2]
    for other in (*taken[place + 1 :], *taken[:place]):
        if float(torch.minimum(mine, other[2]).amax()) < COVERED:
            return other[0], other[1]
    return None


def _first_turn(conversation: Conversation) -> tuple[dict[str, Any], str] | None:
    """What is asked first, with one picture, and the answer."""
    turns = [message for message in conversation if message["role"] != "system"]
    if len(turns) < 2 or turns[0]["role"] != "user" or turns[1]["role"] != "assistant":
        return None
    pictures = sum(part["type"] == "image" for part in turns[0]["content"])
    answer = _text(turns[1]).strip()
    return (turns[0], answer) if pictures == 1 and answer else None


def _with_picture(message: Mapping[str, Any], picture: Image.Image) -> dict[str, Any]:
    parts = [{"type": "image", "image": picture} if part["type"] == "image" else part for part in message["content"]]
    return {**message, "content": parts}


def _text(message: Mapping[str, Any]) -> str:
    return " ".join(part["text"] for part in message["content"] if part["type"] == "text")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
