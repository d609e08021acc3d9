"""VQA accuracy: an answer that three of ten people gave is right.

The rules are those of the official evaluation code of VQA, its oddities included, for they are part of the published figures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBERS = dict(
    zip(
        ["none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
        ["0", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"],
        strict=True,
    )
)
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# that a digit comes before it is written wrongly in the official pattern: only a digit behind keeps a dot
_PERIOD = re.compile(r"\.(?!\d)")
_COMMA = re.compile(r"\d,\d")
# the official code gives re.UNICODE, which is 32, where the number of replacements belongs
_PERIODS = 32

# Words that people write without their apostrophes. "id've", "im" and "ive" are none of them: the official table has them with
# a capital letter, and words are made small before they are looked up.
_CONTRACTED = [
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hasn't",
    "haven't",
    "he'd",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "isn't",
    "it'd",
    "it'll",
    "ma'am",
    "mightn't",
    "might've",
    "mustn't",
    "must've",
    "needn't",
    "not've",
    "o'clock",
    "oughtn't",
    "shan't",
    "should've",
    "shouldn't",
    "somebody'll",
    "somebody's",
    "someone'd",
    "someone'll",
    "someone's",
    "something'd",
    "something'll",
    "that's",
    "there'd",
    "there're",
    "there's",
    "they'd",
    "they'll",
    "they're",
    "they've",
    "'twas",
    "wasn't",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "what've",
    "when's",
    "where'd",
    "where's",
    "where've",
    "who'd",
    "who'll",
    "who's",
    "who've",
    "why'll",
    "why're",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "y'all",
    "you'd",
    "you'll",
    "you're",
    "you've",
]
# those with two, each of which may be missing
_TWICE = [
    "couldn't've",
    "hadn't've",
    "he'd've",
    "it'd've",
    "mightn't've",
    "she'd've",
    "shouldn't've",
    "somebody'd've",
    "someone'd've",
    "something'd've",
    "there'd've",
    "they'd've",
    "we'd've",
    "who'd've",
    "wouldn't've",
    "y'all'll",
    "you'd've",
]


def _contractions() -> dict[str, str]:
    table = {word.replace("'", ""): word for word in _CONTRACTED}
    for word in _TWICE:
        first, second, third = word.split("'")
        table[f"{first}{second}'{third}"] = table[f"{first}'{second}{third}"] = word
    for written in ("ow's'at", "'ows'at", "'ow'sat"):
        table[written] = "'ow's'at"
    for written in ("yall'd've", "y'alld've", "y'all'dve"):
        table[written] = "y'all'd've"
    # as the official table has it
    table["somebody'd"] = "somebodyd"
    return table


_CONTRACTIONS = _contractions()


def trimmed(text: str) -> str:
    """Line ends and tabs are spaces, and none are left around the text."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def normalised(text: str) -> str:
    """A text as VQA compares it: small letters, digits for number words, without punctuation and articles."""
    return _words(without_punctuation(text))


def without_punctuation(text: str) -> str:
    """A text without its punctuation, of which some marks leave a space, as VQA takes it out."""
    without, grouped = text, _COMMA.search(text) is not None
    for mark in _PUNCTUATION:
        loose = grouped or f"{mark} " in text or f" {mark}" in text
        without = without.replace(mark, "" if loose else " ")
    return _PERIOD.sub("", without, count=_PERIODS)


def _words(text: str) -> str:
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def evalai_normalised(text: str) -> str:
    """The same as TextVQA's server does it: commas and question marks go first, and "'s" becomes a word."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalised(trimmed(text))


def agreement(text: str, answers: Sequence[str]) -> float:
    """The mean over people of how many of the others, three being enough, gave this very answer: 0...1."""
    same = sum(answer == text for answer in answers)
    # one who gave it has one fewer among the others
    return (same * min(1, (same - 1) / 3) + (len(answers) - same) * min(1, same / 3)) / len(answers)


def accuracy(text: str, answers: Sequence[str], always: bool = False) -> float:
    """VQA accuracy of one answer, 0...1.

    Args:
        answers: what people said, at least one.
        always: whether texts are normalised even if all people say the same; officially they are not, and the answer has to be
            equal letter by letter.
    """
    text, answers = trimmed(text), [trimmed(answer) for answer in answers]
    if always or len(set(answers)) > 1:
        text, answers = normalised(text), [normalised(answer) for answer in answers]
    return agreement(text, answers)
