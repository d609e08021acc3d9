"""The option that an answer names: how the benchmarks of multiple choice read a letter out of a text.

A reader takes the text and the choices by letter, and returns the letter; None where nothing matches, so that a judge may be
asked. Each is somebody's published rule, its oddities included, for they are part of the published figures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pargo_mllm.evaluation.benchmark import Answered, Mark, Marker, ScoringError, accuracy

Reader = Callable[[str, Mapping[str, str]], str | None]

# of an answer that was understood and names none of the choices: a refusal
NONE_OF_THEM = "Z"

# MMBench's code of 2023 looks for five letters, however many choices there are; E is its "none of them"
_LETTERS_2023 = "ABCDE"
_AROUND_2023 = (
    *(("", behind) for behind in (".", ",", ":", ")", ").")),
    *(("(", behind) for behind in (")", ").")),
    *((":", behind) for behind in ("", ",", ".", ")", ").")),
)
_SPACES_2026 = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_FROM_THE_END_2026 = 5
_ANSWER_IS_2026 = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])", re.IGNORECASE)
_REFUSALS_2026 = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
# what harnesses write for an answer that they did not get
_NOT_OBTAINED = "Failed to obtain answer via API"
# of questions whose choices a file does not have
_FOUR = dict.fromkeys("ABCD", "")

_LLAVA_LETTERS = "ABCDE"
_LLAVA_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")

_MMSTAR_BEFORE = ("(", "option ", "the answer is ")

_IN_BRACKETS = re.compile(r"\(([A-Za-z])\)")
_ALONE = re.compile(r"\W*([A-Za-z])\W*")


def official_2023(text: str, choices: Mapping[str, str]) -> str | None:
    """MMBench's rule of 2023, which lmms-eval has too, without the letter that those draw at random where nothing matches.

    A letter that is a token of its own, where only one letter is; but if A is such a token among more than three, it may be an
    article, and this step is left out. Then the only letter with certain marks around it, ``A.``, ``A,``, ``A:``, ``A)``,
    ``A).``, ``(A)``, ``(A).``, ``:A`` and so on, one form after the other. Then the only choice whose text the answer contains,
    whatever the case; a blank choice is none.

    Returns:
        One of A...E, or None.
    """
    if _NOT_OBTAINED in text:
        return None
    tokens = text.split()
    alone = None if "A" in tokens and len(tokens) > 3 else _only(letter for letter in _LETTERS_2023 if letter in tokens)
    marked = (
        _only(letter for letter in _LETTERS_2023 if before + letter + behind in tokens) for before, behind in _AROUND_2023
    )
    return alone or next(filter(None, marked), None) or _contained(text, choices)


def vlmevalkit_2026(text: str, choices: Mapping[str, str]) -> str | None:
    """VLMEvalKit's rule of 2026.

    Punctuation becomes spaces. A letter of the choices that is a token of its own, where only one letter is, and only if it is
    among the last four tokens. ("The last five", people say; the code asks for a place greater than the count less five.)
    Then "answer is X", in any case, of which X need not be a word: "the answer is dogs" is D. Then the only choice whose text
    the answer contains, unless the answer is longer than twice all choices together; a blank choice is none.

    Returns:
        One of the letters of ``choices`` (A...D where those are not known), :data:`NONE_OF_THEM` of a refusal, or None.
    """
    choices = choices or _FOUR
    if _NOT_OBTAINED in text:
        return None
    if any(refusal in text for refusal in _REFUSALS_2026):
        return NONE_OF_THEM
    tokens = text.translate(_SPACES_2026).split()
    letters = [letter for letter in choices if letter in tokens]
    if len(letters) == 1 and tokens.index(letters[0]) > len(tokens) - _FROM_THE_END_2026:
        return letters[0]
    if not letters and NONE_OF_THEM in tokens:
        return NONE_OF_THEM
    stated = _ANSWER_IS_2026.search(text)
    if stated and stated[1].upper() in choices:
        return stated[1].upper()
    if len(text.lower()) > 2 * sum(map(len, choices.values())):
        return None
    return _contained(text, choices)


def first_character(text: str, choices: Mapping[str, str]) -> str | None:
    """SEED-Bench's letter as harnesses read it: the first character that is no white space, as it stands.

    A small letter is none. What follows does not count: "A person" is A, "Apple" too; "(A)" and "The answer is A" are none.

    Returns:
        One of the letters of ``choices`` (A...D where those are not known), or None.
    """
    first = text.strip()[:1]
    return first if first and first in (choices or _FOUR) else None


def llava_scienceqa(text: str, choices: Mapping[str, str]) -> str | None:
    """LLaVA's rule for ScienceQA: a letter and nothing else; a letter with ``. `` behind it at the very beginning; "The answer
    is X", said once, with one more character in its line.

    Returns:
        One of A...E, and one of the letters of ``choices`` where those are known, or None.
    """
    stated = _LLAVA_ANSWER_IS.findall(text)
    if text[:1] and text[:1] in _LLAVA_LETTERS and (len(text) == 1 or text[1:3] == ". "):
        letter = text[0]
    elif len(stated) == 1:
        letter = stated[0]
    else:
        return None
    return letter if letter in (choices or _LLAVA_LETTERS) else None


def mmstar_official(text: str, choices: Mapping[str, str]) -> str | None:
    """MMStar's rule: the first character, or the one behind ``(``, "option " or "the answer is ", in any case.

    What follows does not count: "a person" is A.

    Returns:
        One of the letters of ``choices`` (A...D where those are not known), or None.
    """
    text = text.lower().strip().replace("\n", " ")
    before = next((before for before in _MMSTAR_BEFORE if text.startswith(before)), "")
    letter = text[len(before) : len(before) + 1].upper()
    return letter if letter and letter in (choices or _FOUR) else None


def letter_in_brackets(text: str, choices: Mapping[str, str]) -> str | None:
    """Where choices are lettered ``(a)``, ``(b)``: the only letter in round brackets, or a letter alone, in any case; else
    :func:`vlmevalkit_2026`. Our own rule: MMVP's authors leave this to a judge."""
    letters = choices or _FOUR
    bracketed = _only(letter for letter in {found.upper() for found in _IN_BRACKETS.findall(text)} if letter in letters)
    alone = _ALONE.fullmatch(text)
    if bracketed:
        return bracketed
    if alone and alone[1].upper() in letters:
        return alone[1].upper()
    return vlmevalkit_2026(text, choices)


def choice_itself(text: str, choices: Mapping[str, str]) -> str | None:
    """The choice that the answer is, letter for letter, as A-OKVQA wants it; else :func:`vlmevalkit_2026`."""
    return next((letter for letter, choice in choices.items() if text == choice), None) or vlmevalkit_2026(text, choices)


def by_letter(read: Reader) -> Marker:
    """A rule that reads a letter out of each answer. One that names none is wrong, unless a judge said which it means."""

    def marks(answered: Sequence[Answered]) -> list[Mark]:
        return [_mark(one, read(one.text, one.item.choices) or next(iter(one.grades), None)) for one in answered]

    return marks


def by_likelihood(answered: Sequence[Answered]) -> list[Mark]:
    """A rule that ranks: the choice with the lowest mean loss counts; of equal ones the first.

    Raises:
        ScoringError: if an answer has no losses, or one that is no number.
    """
    return [_mark(one, likeliest(one.losses, one.where or one.item.id)) for one in answered]


def likeliest(losses: Mapping[str, float] | None, where: str) -> str:
    """The letter with the lowest loss; of equal ones the first.

    Raises:
        ScoringError: if there are none, or one is no number.
    """
    if not losses:
        raise ScoringError(f"{where}: there are no losses of the choices; a likelihood is not in a file of letters.")
    for letter, loss in losses.items():
        if not math.isfinite(loss):
            raise ScoringError(f"{where}: the loss of {letter} is {loss}, no finite number.")
    return min(losses, key=losses.__getitem__)


def letter_figures(marks: Sequence[Mark]) -> dict[str, Any]:
    """``accuracy`` over all questions and by part in ``parts``; ``unmatched``: how many answers name no choice."""
    return {**accuracy(marks), "unmatched": unmatched(marks)}


def unmatched(marks: Sequence[Mark]) -> int:
    """How many answers name no choice."""

    def names_none(mark: Mark) -> bool:
        return mark.read in ("", NONE_OF_THEM) or (bool(mark.item.choices) and mark.read not in mark.item.choices)

    return sum(map(names_none, marks))


def _mark(one: Answered, letter: str | None) -> Mark:
    return Mark(one.item, one.text, float(letter is not None and letter == one.item.answer), letter or "")


def _only(letters: Iterable[str]) -> str | None:
    found = list(letters)
    return found[0] if len(found) == 1 else None


def _contained(text: str, choices: Mapping[str, str]) -> str | None:
    text = text.lower()
    return _only(letter for letter, choice in choices.items() if choice.strip() and choice.lower() in text)
