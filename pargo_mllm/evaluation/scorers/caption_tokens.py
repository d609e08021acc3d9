"""Words of captions as the captions' metrics count them.

COCO's evaluation cuts captions with Stanford's PTBTokenizer 3.4.1, a Java program, makes letters small and leaves out marks.
What it does to captions is done here by a few patterns, of which the longest that fits wins, as in its lexer: contractions are
cut ("is n't", "man 's"), hyphenated words and fractions are not, brackets have names ("-lrb-" is left in, for only "-LRB-" is
taken out), an abbreviation keeps its dot.
"""

from __future__ import annotations

import re

#: what COCO's evaluation leaves out
LEFT_OUT = {"''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
_NAMED = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "£": "#", "€": "$", "¢": "cents"}
_FRACTIONS = {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_ENTITIES = {"&amp;": "&", "&quot;": '"', "&lt;": "<", "&gt;": ">", "&apos;": "'", "&nbsp;": " "}

_APOSTROPHE = "['’\x92]"
_ALNUM = r"[^\W_½¼¾⅓⅔]"
_LETTER = r"[^\W\d_½¼¾⅓⅔]"
_TITLES = (
    "mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm|rev|maj|sgt|cpl|pvt|mt|capt|ste?|ave|pres|lieut|hon|"
    "brig|co?mdr|pfc|spc|supts?|det|ft"
)
_ABBREVIATIONS = (
    "jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thurs?|fri|jr|sr|bros|(?:ed|ph)\\.d|inc|cos?|corp|ltd|plc|"
    "dept|mfg|assn|univ|intl|blvd|rd|etc|vs"
)
# words behind which a single letter is the end of a sentence and no initial
_STARTS = (
    "About|According|Additionally|After|An?|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Mr\\.|Ms\\.|Now|Once|"
    "One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|When|While|What|Yet|You"
)

_PATTERNS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"https?://[^\s\"<>|()]+[^\s\"<>|.!?(){},-]",
        r"(?:www\.)?(?:[^\W_]+\.)+(?:com|net|org|edu)(?:/[^\s\"<>|()]*[^\s\"<>|.!?(){},-])?",
        r"[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)*",
        r"</?[a-z!?][^>]{0,200}>",
        # two words in one: what stands in brackets is the token, the rest is the reason
        rf"(can)not(?!{_ALNUM})|(got)ta(?!{_ALNUM})|(gon|wan)na(?!{_ALNUM})|(gim|lem)me(?!{_ALNUM})",
        rf"({_LETTER}+?)n{_APOSTROPHE}t(?!{_ALNUM})",
        rf"n{_APOSTROPHE}t(?!{_ALNUM})",
        rf"{_APOSTROPHE}(?:s|m|d|re|ve|ll)(?!{_ALNUM})",
        rf"({_APOSTROPHE}t)(?:is|was)(?!{_ALNUM})",
        # apostrophes that belong to a word
        rf"{_APOSTROPHE}n{_APOSTROPHE}|{_APOSTROPHE}(?:n|em|til|till|cause|[2-9]0s)(?!{_ALNUM})|(?:ol|y){_APOSTROPHE}",
        rf"[dlj]{_APOSTROPHE}{_ALNUM}+|o{_APOSTROPHE}{_ALNUM}+|(?:c{_APOSTROPHE}mon|ma{_APOSTROPHE}am)(?!{_ALNUM})",
        rf"[a-hj-xzn]{_APOSTROPHE}{_LETTER}{{2,}}|{_LETTER}+[aeiouy]{_APOSTROPHE}[aeiou]{_LETTER}*",
        # words, also glued to the next sentence's, and chains of them
        rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*",
        rf"{_ALNUM}+(?:[-‐‑_]{_ALNUM}+)*",
        r"[a-z0-9]+(?:-[a-z]+){0,2}(?:/[a-z0-9]+(?:-[a-z]+){0,2}){1,2}",
        r"[-+]?(?:\d*(?:[.:,]\d+)+|\d+)",
        r"c\#|us\$|[@\#][^\W\d_]+|_+|\*+",
        rf"(?:(?:{_TITLES})|(?:{_ABBREVIATIONS})|[a-z](?:\.[a-z])+)\.",
        # whatever ends in a dot inside of a sentence is taken for an abbreviation
        rf"(?:{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*|{_ALNUM}+(?:-{_ALNUM}+)*)\.(?=[,;:])",
        r"(?:no|nos|ext|sq|tel|est|prop)\.(?=\s*\d)",
        rf"[<>]?[:;=][-o*']?[()dpo\\{{@|\[\]](?!{_ALNUM})",
        r"--+|\.\.\.+|[?!]+",
    )
]
# in these the case counts
_PATTERNS += [
    re.compile(r"[A-Z]+(?:&[A-Z]+)+"),
    re.compile(rf"(?<!{_ALNUM})[A-Za-z]\.(?!{_ALNUM})(?!\s+(?:{_STARTS})\b)(?=\s*\S)"),
]
_SPACES = re.compile(r"\s+")


def ptb_tokens(caption: str) -> str:
    """A caption's words with single spaces between, cut as Stanford's PTBTokenizer does and kept as COCO's evaluation does."""
    for entity, mark in _ENTITIES.items():
        caption = caption.replace(entity, mark)
    words, place = [], 0
    while place < len(caption):
        space = _SPACES.match(caption, place)
        if space:
            place = space.end()
            continue
        token = _longest(caption, place)
        place += len(token)
        words.extend(_written(token))
    return " ".join(word for word in words if word not in LEFT_OUT)


def _longest(text: str, place: int) -> str:
    """The token that starts there."""
    token, reach = text[place], place + 1
    for pattern in _PATTERNS:
        found = pattern.match(text, place)
        if found and found.end() > reach:
            token, reach = found[found.lastindex or 0], found.end()
    return token


def _written(token: str) -> list[str]:
    """A token as the tokenizer writes it: nothing, one word or a fraction's."""
    if len(token) > 1 and token[0] in "'’\x92" and token[1:].lower() in ("s", "m", "d", "re", "ve", "ll", "t"):
        token = "'" + token[1:]
    elif len(token) == 3 and token[0] in "nN" and token[1] in "'’\x92" and token[2] in "tT":
        token = token[0] + "'" + token[2]
    if len(token) > 1:
        if token.startswith("--"):
            token = "--"
        elif token.startswith("..."):
            token = "..."
        elif token[0] in ":;=<>":
            token = "".join(_NAMED.get(mark, mark) for mark in token) if not token.endswith(">") else token
        return [token.lower()]
    if ord(token) > 0xFFFF:
        # the tokenizer of 2014 drops what lies beyond the basic plane
        return []
    if token in _FRACTIONS:
        return [_FRACTIONS[token]]
    if token in "\"“”«»‹›‘’'`":
        return ["''"]
    if token in "–—":
        return ["--"]
    if token in "‐‑":
        return ["-"]
    return [_NAMED.get(token, "..." if token == "…" else token.lower())]
