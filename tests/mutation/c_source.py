"""Mutants of C, by its tokens: operators, constants, conditions and statements. Comments, texts and directives stay.

A prefetch is left alone: it moves time, never a result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from tests.mutation.mutant import Mutant, Place, named

TOKEN = re.compile(
    r"""(?P<skip>/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|^[ \t]*\#(?:\\\n|[^\n])*|\s+|\\\n)
    |(?P<number>(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)[uUlLfF]*)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<sign><<=|>>=|\.\.\.|->|\+\+|--|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^]=|.)""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
BINARY = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "+": "-", "-": "+", "*": "+", "/": "*", "%": "*",
    "&&": "||", "||": "&&", "<<": ">>", ">>": "<<", "&": "|", "|": "&",
}  # fmt: skip
ASSIGNING = {"+=": "-=", "-=": "+=", "*=": "+=", "/=": "*=", "|=": "&=", "&=": "|="}
WORDS = {"min": "max", "max": "min", "fminf": "fmaxf", "fmaxf": "fminf", "larger": "smaller"}
CONDITIONS = ("if", "while")
NOT_STATEMENTS = {"return", "for", "if", "else", "while", "do", "case", "default", "goto", "typedef", "static", "extern"}


class Token(tuple):
    """(kind, text, start), start in characters."""

    kind = property(lambda self: self[0])
    text = property(lambda self: self[1])
    start = property(lambda self: self[2])

    @property
    def end(self) -> int:
        """Just past the token."""
        return self[2] + len(self[1])


def tokens(source: str) -> list[Token]:
    """The tokens of a text that can be changed."""
    return [Token((m.lastgroup, m.group(), m.start())) for m in TOKEN.finditer(source) if m.lastgroup != "skip"]


def mutants(file: str, source: str) -> list[Mutant]:
    """All mutants of a file's text, in the order of their places."""
    found = list(_places(source, tokens(source)))
    if not source.isascii():
        width = [0]
        for letter in source:
            width.append(width[-1] + len(letter.encode()))
        found = [place._replace(start=width[place.start], end=width[place.end]) for place in found]
    return named(file, source, found)


def _places(source: str, found: list[Token]) -> Iterator[Place]:
    idle = _prefetches(found)
    for i, token in enumerate(found):
        if any(begin <= token.start < end for begin, end in idle):
            continue
        before = found[i - 1] if i else None
        if token.kind == "number":
            yield from _number(token)
        elif token.text in BINARY and _is_binary(found, i):
            yield Place(token.start, token.end, BINARY[token.text], f"{token.text} → {BINARY[token.text]}")
        elif token.text in ASSIGNING:
            yield Place(token.start, token.end, ASSIGNING[token.text], f"{token.text} → {ASSIGNING[token.text]}")
        elif token.text == "!":
            yield Place(token.start, token.end, "", "! dropped")
        elif token.text in WORDS and _follows(found, i, "("):
            yield Place(token.start, token.end, WORDS[token.text], f"{token.text} → {WORDS[token.text]}")
        elif token.text in CONDITIONS and _follows(found, i, "("):
            close = _closing(found, i + 1)
            inside = source[found[i + 1].end : found[close].start]
            if token.text == "if":
                yield Place(found[i + 1].end, found[close].start, f"!({inside})", "condition negated")
            yield Place(found[i + 1].end, found[close].start, "0", "condition → 0")
        elif token.text == "?":
            yield Place(token.start, token.end, "&& 0 ?", "choice → second")
            yield Place(token.start, token.end, "|| 1 ?", "choice → first")
        if before is not None and before.text in (";", "{", "}", ")") and token.kind == "word":
            yield from _statement(source, found, i)


def _number(token: Token) -> Iterator[Place]:
    text = token.text
    if re.fullmatch(r"\d+", text):
        for value in (int(text) + 1, int(text) - 1):
            yield Place(token.start, token.end, str(value) if value >= 0 else "(-1)", f"{text} → {value}")
    elif text[:2].lower() == "0x":
        yield Place(token.start, token.end, f"({text} + 1)", f"{text} → {text} + 1")
    else:
        # a hundredth is far over what rounding is allowed
        yield Place(token.start, token.end, f"({text} * 1.01f + 1e-3f)", f"{text} → 1.01 {text} + 0.001")


def _is_binary(found: list[Token], i: int) -> bool:
    # behind a name, a number or a closing bracket; a star before a name of a parameter is a pointer
    before, after = found[i - 1] if i else None, found[i + 1] if i + 1 < len(found) else None
    if before is None or after is None or before.text in NOT_STATEMENTS:
        return False
    operand = before.kind == "number" or before.kind == "word" or before.text in (")", "]")
    if found[i].text in ("*", "&"):
        types = r"(?:const|void|char|int|float|double|half|\w+_t|vec|ivec|part|Tensor|Call|Rows|\w*_anywhere|[A-Z][a-z]\w*)"
        is_type = re.fullmatch(types, before.text) is not None
        return operand and not is_type and after.text not in (")", ",")
    return operand


def _statement(source: str, found: list[Token], i: int) -> Iterator[Place]:
    """A call or an assignment that stands by itself, dropped; a declaration stays."""
    token = found[i]
    if token.text in NOT_STATEMENTS:
        return
    if token.text in ("continue", "break"):
        yield Place(token.start, token.end, "", f"{token.text} dropped")
        return
    nested, assigns, call = 0, False, _follows(found, i, "(")
    for j in range(i, len(found)):
        text = found[j].text
        nested += text in "([" and len(text) == 1
        nested -= text in ")]" and len(text) == 1
        if nested < 0 or text in "{}":
            return
        if nested == 0 and (text == "=" or text in ASSIGNING):
            # name = …, name[…] = …, name->field = …: two words side by side declare
            words = [t.kind == "word" for t in found[i:j]]
            declares = any(a and b for a, b in pairwise(words)) or any(t.text == "*" for t in found[i:j] if t.kind == "sign")
            assigns = assigns or not declares
            if declares:
                return
        if text == ";" and nested == 0:
            if assigns or call:
                yield Place(token.start, found[j].start, "", f"{source[token.start : found[j].start][:40]} dropped")
            return


def _follows(found: list[Token], i: int, text: str) -> bool:
    return i + 1 < len(found) and found[i + 1].text == text


def _closing(found: list[Token], i: int) -> int:
    depth = 0
    for j in range(i, len(found)):
        depth += {"(": 1, ")": -1}.get(found[j].text, 0)
        if depth == 0:
            return j
    raise ValueError("a bracket is never closed")


def _prefetches(found: list[Token]) -> list[tuple[int, int]]:
    """Spans of prefetches and the loops that hold nothing else."""
    spans = []
    for i, token in enumerate(found):
        if token.text == "__builtin_prefetch":
            begin, end = i, _closing(found, i + 1)
            while begin and found[begin - 1].text == ")" and (head := _loop(found, begin - 1)) is not None:
                begin = head
            spans.append((found[begin].start, found[end].end))
    return spans


def _loop(found: list[Token], close: int) -> int | None:
    """Where ``for (…)`` begins whose closing bracket stands at ``close``."""
    depth = 0
    for j in range(close, -1, -1):
        depth += {")": 1, "(": -1}.get(found[j].text, 0)
        if depth == 0:
            return j - 1 if j and found[j - 1].text == "for" else None
    return None
