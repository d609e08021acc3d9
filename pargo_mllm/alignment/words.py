"""Words as a language model spells and embeds them, and the forms that one word has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# characters of the longest name that is taken for one
LONGEST = 200
_PLURALS = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "ox": "oxen",
    "ski": "skis",
    "bus": "buses",
    "leaf": "leaves",
    "knife": "knives",
    "wife": "wives",
    "life": "lives",
    "wolf": "wolves",
    "calf": "calves",
    "half": "halves",
    "shelf": "shelves",
    "loaf": "loaves",
    "scarf": "scarves",
    "tomato": "tomatoes",
    "potato": "potatoes",
    "hero": "heroes",
    "mango": "mangoes",
    "thief": "thieves",
    "lens": "lenses",
    "canvas": "canvases",
    "atlas": "atlases",
    "iris": "irises",
    "quiz": "quizzes",
    "axis": "axes",
    "oasis": "oases",
    "fireman": "firemen",
    "policeman": "policemen",
    "snowman": "snowmen",
    "passer-by": "passers-by",
}
_SINGULARS = {plural: word for word, plural in _PLURALS.items()}
_ALIKE = frozenset({"sheep", "fish", "deer", "scissors", "aircraft", "broccoli", "furniture", "tennis", "series", "species"})
_HISSING = ("s", "x", "z", "ch", "sh")
# a final e belongs to their singular
_IE = frozenset({"cookies", "movies", "pies", "ties", "zombies", "brownies", "hoodies", "selfies", "birdies", "calories"})


def word_ids(tokenizer: Any, word: str) -> tuple[int, ...]:
    """The tokens of a word in the middle of a sentence; empty where the tokenizer has none for it, or takes it for control.

    A word behind another one is spelled otherwise than one at the beginning of a text, in most vocabularies by a space that
    belongs to it.
    """
    word = " ".join(word.split())
    if not word or why_not_a_word(word):
        return ()
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer(f"a {word}", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if ids[: len(before)] == before:
        ids = ids[len(before) :]
    else:
        # it takes both words for one
        ids = tokenizer(word, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    # a vocabulary of whole words has rows for control tokens, and that of unknown words is one
    return () if control_ids(tokenizer) & set(ids) else tuple(ids)


def control_ids(tokenizer: Any) -> frozenset[int]:
    """The tokens that steer a model and say nothing: of turns, of unknown words, of places for pictures."""
    added = (index for index, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset(tokenizer.all_special_ids).union(added)


def word_vectors(embeddings: torch.Tensor, words: Sequence[Sequence[int]]) -> torch.Tensor:
    """The mean input embedding of each word's tokens: fp32 ``[words, C]`` from ``[vocabulary, C]``; 0 for no tokens."""
    ids = torch.tensor([token for word in words for token in word], dtype=torch.int64)
    starts = torch.tensor([0, *map(len, words)], dtype=torch.int64).cumsum(0)[:-1]
    return mean_rows(embeddings, ids, starts)


def mean_rows(embeddings: torch.Tensor, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """The same of words one behind the other in ``ids``, each from ``starts`` on: int64 both."""
    rows = embeddings[ids.to(embeddings.device)].float()
    if not len(starts):
        return rows.new_zeros(0, embeddings.shape[1])
    places = torch.arange(len(rows), device=rows.device)
    return torch.nn.functional.embedding_bag(places, rows, starts.to(rows.device), mode="mean")


def plural(word: str) -> str:
    """Of a word, or of the last of several; by English spelling, with the exceptions that common labels need."""
    front, last = _last_word(word)
    if last in _ALIKE or last in _SINGULARS:
        return word
    if last in _PLURALS:
        return front + _PLURALS[last]
    if last.endswith(_HISSING):
        return front + last + "es"
    if last.endswith("y") and last[-2:-1] not in "aeiou":
        return front + last[:-1] + "ies"
    return front + last + "s"


def singular(word: str) -> str:
    """Of a plural, by the same spelling; any other word stays as it is."""
    front, last = _last_word(word)
    if last in _ALIKE or last in _PLURALS:
        return word
    if last in _SINGULARS:
        return front + _SINGULARS[last]
    if last.endswith("ies") and len(last) > 4 and last not in _IE:
        return front + last[:-3] + "y"
    if last.endswith("es") and last[:-2].endswith(("ss", "x", "zz", "ch", "sh")):
        return front + last[:-2]
    if last.endswith("s") and len(last) > 3 and not last.endswith(("ss", "us", "is")):
        return front + last[:-1]
    return word


def forms(word: str, synonyms: Iterable[str] = ()) -> tuple[str, ...]:
    """What counts as naming it: the word, its plural and singular, the same of the synonyms that are given, each as it stands
    and with small and capital first letters; the word itself first, none twice.

    Raises:
        TypeError: for what is no text, and for a text in place of synonyms.
    """
    found: dict[str, None] = {}
    for name in (" ".join(one.split()) for one in _texts((word, *_texts(synonyms, "synonyms")), "a word and its synonyms")):
        if name:
            small = name[:1].lower() + name[1:]
            for form in (name, small, singular(small), plural(singular(small))):
                found.setdefault(form)
                found.setdefault(form[:1].upper() + form[1:])
    return tuple(found)


@dataclass(frozen=True)
class Spelling:
    """Names as a tokenizer spells them.

    Args:
        ids: the tokens of each name that it can spell, in the order they were given: of the name, or where that has none, of
            the first of its forms that has.
        missing: of each other name, why it has none.
    """

    ids: dict[str, tuple[int, ...]]
    missing: dict[str, str]

    def vectors(self, embeddings: torch.Tensor) -> torch.Tensor:
        """fp32 ``[names, C]`` (:func:`word_vectors`), in the order of ``ids``."""
        return word_vectors(embeddings, list(self.ids.values()))


def spelled(tokenizer: Any, names: Iterable[str], synonyms: Mapping[str, Sequence[str]] | None = None) -> Spelling:
    """The tokens of every name; names without any are told with the reason, never left out in silence.

    Raises:
        TypeError: for what is no text, and for a text in place of several.
    """
    ids: dict[str, tuple[int, ...]] = {}
    missing: dict[str, str] = {}
    for name in dict.fromkeys(_texts(names, "names")):
        reason = why_not_a_word(name)
        if reason:
            missing[name] = reason
            continue
        found = next(filter(None, (word_ids(tokenizer, form) for form in forms(name, (synonyms or {}).get(name, ())))), ())
        if found:
            ids[name] = found
        else:
            missing[name] = "the tokenizer has no tokens for it that are words"
    return Spelling(ids, missing)


def why_not_a_word(name: str) -> str | None:
    """Why no tokenizer is asked about a name; None where it can be."""
    if not name.strip():
        return "it is empty"
    if len(name) > LONGEST:
        return f"it has {len(name)} characters, more than the {LONGEST} of the longest name"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "it holds half a character, which is no text"
    return None


def _texts(names: Iterable[str], what: str) -> tuple[str, ...]:
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise TypeError(f"{what}: {names!r:.80} stands where several belong; give a list, [{names!r:.80}].")
    texts = tuple(names)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{what}: {text!r:.80} is no text.")
    return texts


def _last_word(word: str) -> tuple[str, str]:
    front, space, last = word.rpartition(" ")
    return front + space, last
