import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pargo_mllm.errors import UserError
from pargo_mllm.filtering.sentences import check_language, sentence_spans


def sentences(text, language="en"):
    return [text[start:end] for start, end in sentence_spans(text, language)]


def test_sentences_are_those_of_a_reader():
    text = "A man rides a horse. Dr. Smith (e.g. the vet) watches! It is 3.5 m tall?\n- one\n- two.  … \n\n**\nThe end"
    assert sentences(text) == [
        "A man rides a horse.",
        "Dr. Smith (e.g. the vet) watches!",
        "It is 3.5 m tall?",
        "- one",
        "- two.",
        "The end",
    ]
    assert sentences("一匹马。两只狗！", "zh") == ["一匹马。", "两只狗！"]
    assert sentences(" ?! … ") == []


PIECES = (*"ab1.!?…\n\"'() ", "Mr. ", "e.g. ", "1. ", "\u2028", "\x85", "。", ". ", "\\", "[", "&")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from(PIECES)).map("".join))
def test_nothing_that_is_said_is_lost(text):
    spans = sentence_spans(text, "en")
    assert all(start < end for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    covered = {place for start, end in spans for place in range(start, end)}
    assert not [place for place, sign in enumerate(text) if sign.isalnum() and place not in covered]


@pytest.mark.parametrize("text", ["a. " * 100_000, "1." * 100_000, "a" * 300_000, "(" * 1999, '"A. ' * 480, "a.b" * 600])
def test_no_text_takes_long(text):
    begun = time.process_time()
    sentence_spans(text, "en")
    # pysbd alone needs minutes for some of them
    assert time.process_time() - begun < 5


def test_a_language_that_is_none_is_named():
    with pytest.raises(UserError, match="--language tlh: pysbd knows"):
        check_language("tlh")
