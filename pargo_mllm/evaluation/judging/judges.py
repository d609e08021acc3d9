"""What the judges are asked, in our own words: so grades are near those of the benchmarks' authors, not theirs to the digit."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pargo_mllm.evaluation.benchmark import Answered, Item
from pargo_mllm.evaluation.judging.grading import Judge

_CORRECTNESS = """\
You grade answers of a vision-language model. Each line of the table below holds a question about a picture, the ground truth, \
the model's prediction, and how correct the prediction is: 0.0 for wrong, 1.0 for right, and tenths between them for a part.
<AND> in a ground truth joins things that must all be in the prediction for it to be right; <OR> joins things of which one is \
enough. The wording does not matter, the meaning does.
Complete the last line: say the number, and nothing else.

Question | Ground truth | Prediction | Correctness
--- | --- | --- | ---
Which numbers are on the two doors? | 12 <AND> 14 | The doors have the numbers 12 and 14. | 1.0
Which numbers are on the two doors? | 12 <AND> 14 | One of them is number 12. | 0.5
Which numbers are on the two doors? | 12 <AND> 14 | They are painted green. | 0.0
What is y? | 0.25 <OR> 1/4 | y = 1/4 | 1.0
What is y? | 0.25 <OR> 1/4 | y = 4 | 0.0
Why do people laugh at this drawing? | A cat sits at the desk in a suit and signs a contract to buy mice, as a manager would, \
while its staff of dogs looks on. | A cat in a suit behaves like a manager. | 0.5
Why do people laugh at this drawing? | A cat sits at the desk in a suit and signs a contract to buy mice, as a manager would, \
while its staff of dogs looks on. | There is a cat, and cats are funny. | 0.1
Why do people laugh at this drawing? | A cat sits at the desk in a suit and signs a contract to buy mice, as a manager would, \
while its staff of dogs looks on. | The cat acts as the boss of the dogs: dressed in a suit, it signs an order of mice. | 0.9
"""

_COMPARISON = """\
Two assistants answered the same question about a picture. You cannot see the picture; what is in it is told under Context.

[Context]
{context}

[Question]
{question}

[Answer of assistant 1]
{reference}

[Answer of assistant 2]
{answer}

[Your task]
{task}
Give each assistant a score from 1 to 10, a higher one for a better answer. Do not favour an answer for its place or its length.
Your first line holds the two scores alone, that of assistant 1 and that of assistant 2, with a space between them. From the \
second line on, explain them."""

_TASKS = {
    "conv": "How helpful, relevant, correct and complete is each answer, as a reply in a conversation?",
    "detail": "How correct, precise and complete is each answer, as a description of what the picture shows?",
    "complex": "How sound is each answer's reasoning, and how helpful, relevant and correct is it?",
}

_OPTIONS = """\
Somebody answered a question of multiple choice in words. Say which of the options the answer means: its letter, and nothing \
else. If it means none of them, or several, say {none}.

Question: Which animal is on the roof?
Options: A. a stork B. a cat C. a rooster
Answer: It seems to be a white bird with long red legs.
Letter: A

Question: How many cups are there?
Options: A. two B. three
Answer: There are four cups on the table.
Letter: {none}

Question: {question}
Options: {options}
Answer: {answer}
Letter:"""

_LETTER = re.compile(r"\W*([A-Z])\b")


def correctness_of(text: str, item: Item) -> float | None:
    """MM-Vet's grade: the first word as a number in [0, 1], as the official evaluator reads it."""
    words = text.split()
    try:
        grade = float(words[0]) if words else None
    except ValueError:
        return None
    return grade if grade is not None and 0 <= grade <= 1 else None


def scores_of(text: str, item: Item) -> tuple[float, float] | None:
    """LLaVA-Bench's grades, the reference's and the model's: two numbers on the first line, spaces or commas between them."""
    words = text.strip().split("\n")[0].replace(",", " ").split()
    try:
        reference, model = map(float, words)
    except ValueError:
        return None
    return (reference, model) if 0 <= reference <= 10 and 0 <= model <= 10 else None


def option_of(text: str, item: Item) -> str | None:
    """The letter that a judge says an answer means; "" for none of the choices."""
    found = _LETTER.match(text)
    if not found:
        return None
    letter = found[1]
    return letter if letter in item.choices else "" if letter == _none_of(item) else None


def _grade_correctness(answered: Answered) -> str:
    item = answered.item
    truth = str(item.answer).replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    cells = (item.question, truth, answered.text)
    return _CORRECTNESS + "".join(f"{' '.join(cell.split())} | " for cell in cells)


def _compare(answered: Answered) -> str:
    item = answered.item
    return _COMPARISON.format(
        context=item.details["context"],
        question=item.question,
        reference=item.answer,
        answer=answered.text,
        task=_TASKS.get(item.part, _TASKS["conv"]),
    )


def _name_option(answered: Answered) -> str:
    item = answered.item
    options = " ".join(f"{letter}. {text}" for letter, text in item.choices.items())
    return _OPTIONS.format(question=item.question, options=options, answer=answered.text, none=_none_of(item))


def _none_of(item: Item) -> str:
    return "Z" if "E" in item.choices else "E"


def _lacks_truth(item: Item) -> str:
    return "" if item.question and item.answer is not None else "the question and its ground truth"


def _lacks_reference(item: Item) -> str:
    told = item.question and item.answer is not None and item.details.get("context")
    return "" if told else "the question, its context and the reference's answer"


def _lacks_choices(item: Item) -> str:
    return "" if item.question and item.choices else "the question and its choices"


MM_VET = Judge(_grade_correctness, correctness_of, _lacks_truth, again="\nThe number that completes the last line: ")
# its authors ask at 0.2
LLAVA_BENCH = Judge(_compare, scores_of, _lacks_reference, temperatures=(0.2, 0.4, 0.6, 0.8, 1.0))


def extraction(read: Callable[[str, Mapping[str, str]], str | None]) -> Judge:
    """Of multiple choice: the judge says which option an answer means, where ``read`` finds none in it. Its grades are letters;
    "" is none of them.

    Args:
        read: a rule's reader (:mod:`pargo_mllm.evaluation.scorers.letters`): None where nothing matches.
    """

    def asks(answered: Answered) -> bool:
        return read(answered.text, answered.item.choices) is None

    return Judge(_name_option, option_of, _lacks_choices, asks=asks, once=True)
