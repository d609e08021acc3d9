"""Rules of lmms-eval and ours side by side on texts that nobody thought of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pargo_mllm.evaluation.scorers import letters, texts, vqa

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (make test-lmms-eval): its rules were not compared with")

MANY = settings(max_examples=1500, deadline=None)
WORDS = ("a", "the", "two", "none", "3,000", "0.5.", "cat", "it's", "dont", "somebody'd")
MARKS = tuple(';/[]"{}()=+\\_-><@`,?!. \n\t')
CHOICES = ({"A": "cat", "B": "a dog"}, {"A": "red", "B": "the cat", "C": "cat", "D": "dog"})


def joined(*kinds, most=6):
    """Pieces behind each other, as often of one kind as of another."""
    return st.lists(st.one_of(*map(st.sampled_from, kinds)), max_size=most).map("".join)


def test_vqas_words():
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    table = EvalAIAnswerProcessor.CONTRACTIONS
    listed = [*table, *table.values(), *EvalAIAnswerProcessor.NUMBER_MAP]

    def same(text):
        theirs = EvalAIAnswerProcessor()  # it remembers the words that it has met
        assert vqa.evalai_normalised(text) == theirs(text)
        assert vqa.normalised(text) == theirs.process_digit_article(theirs.process_punctuation(text))

    for word in listed:
        same(word)
    MANY(given(joined(WORDS, MARKS, " ", listed))(same))()


def test_docvqas_distance():
    from lmms_eval.api.metrics import anls

    words = st.text("aAbß \n", max_size=6)

    @MANY
    @given(words, st.lists(words, min_size=1, max_size=3))
    def hold(text, answers):
        assert texts.anls(text, answers) == anls(answers, [text])["anls"]

    hold()


def test_chartqas_numbers():
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness

    numbers = st.text("0123.%-eEnaif, ", max_size=5)

    @MANY
    @given(numbers, numbers)
    def hold(text, answer):
        assert texts.close(text, answer) == relaxed_correctness(text, answer)

    hold()


def test_mmbenchs_letters():
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    theirs = MMBench_Evaluator()

    @MANY
    @given(joined("ABCDE", ".,:()", " ", ("the", "cat", "a dog", "red"), most=8), st.sampled_from(CHOICES))
    def hold(text, choices):
        # it writes into the choices; what names none it tells as False
        assert letters.official_2023(text, choices) == (theirs.can_infer(text, dict(choices)) or None)

    hold()
