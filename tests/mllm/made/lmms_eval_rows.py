"""Rows of benchmarks as the hub has them, without pictures, and answers to them: what lmms-eval and this package both read.

``NAME_row(number, draw)`` makes one with a random source, ``NAME_said(row, draw)`` an answer.
"""

from tests.mllm.made.lmms_eval_tasks import SIZE

SUBTASKS = ("existence", "count", "OCR", "code_reasoning", "text_translation")
LETTERS = ("A", "B", "C", "D")
WORDS = (
    *("a", "an", "The", "cat", "t-shirt", "Two", "none", "10", "1,000", "3.5", "dont", "it's", "womans'", "couldn'tve", "im"),
    *("somebody'd", "red/blue", "(left)", "yes.", "no,", "what?", "Mr. X", "50%", "ow's'at", "café"),
)


def picked(*texts):
    """One of these, whatever is asked."""
    return lambda row, draw: draw.choice(texts)


def some_words(draw):
    return " ".join(draw.choices(WORDS, k=draw.randint(1, 3)))


def people(draw):
    """Of ten people, some say the same."""
    answers = [some_words(draw) for _ in range(draw.randint(1, 4))]
    return [draw.choice(answers) for _ in range(10)]


def mme_row(number, draw):
    task = SUBTASKS[number // 2 % len(SUBTASKS)]
    question = f"Is it {number}? Please answer yes or no."
    answer = draw.choice(("Yes", "No"))
    return {"question_id": f"{task}/{number // 2}.jpg", "question": question, "answer": answer, "category": task}


def pope_row(number, draw):
    about = {"id": str(number), "question_id": str(number), "image_source": f"COCO_val2014_{number}", "category": "popular"}
    return {**about, "question": f"Is there a {number}?", "answer": draw.choice(("yes", "no"))}


def choices_of(number):
    return {"A": f"a red {number}", "B": f"a blue {number}", "C": f"green {number}", "D": f"no {number}"}


def seed_row(number, draw):
    choices = {f"choice_{letter.lower()}": text for letter, text in choices_of(number).items()}
    about = {"question_id": str(number), "data_id": f"{number}_1", "data_type": "image", "question_type_id": 1 + number % 9}
    return {**about, **choices, "question": f"What is {number}?", "answer": draw.choice(LETTERS)}


def mmbench_row(number, draw):
    """Two rotations of a question each."""
    choices = {**choices_of(number), **({"D": "nan"} if number % 3 else {})}
    about = {"hint": "nan", "source": "made", "comment": "nan", "split": "dev", "L2-category": "l"}
    index = number // 2 + 1 + 1_000_000 * (number % 2)
    question = {"index": index, "question": f"What is {number}?", "answer": draw.choice("ABC")}
    return {**question, **choices, **about, "category": f"c{number // 2 % 4}"}


def mmbench_said(row, draw):
    """It names a choice: where none is named, lmms-eval asks a judge."""
    letter = row["answer"]
    return draw.choice((letter, f"{letter}.", f"({letter})", f"It is {row[letter].upper()}!", "A", "B, I think"))


def mmvp_row(number, draw):
    letter = "ab"[(number + number // 2) % 2]
    about = {"Options": "(a) Open (b) Closed", "Correct Answer": f"({letter})"}
    return {"Index": number + 1, "Question": f"Is it {number // 2}?", **about}


def vqav2_row(number, draw):
    answers = [{"answer": text, "answer_id": place + 1, "answer_confidence": "yes"} for place, text in enumerate(people(draw))]
    about = {"question_id": number, "image_id": number, "question": "What?", "question_type": "what"}
    return {**about, "answer_type": draw.choice(("other", "number")), "answers": answers}


def vqav2_said(row, draw):
    return draw.choice((draw.choice(row["answers"])["answer"], some_words(draw))) + draw.choice(("", "", ".", " !"))


def textvqa_row(number, draw):
    about = {"question_id": number, "image_id": f"i{number}", "ocr_tokens": ["x"]}
    return {**about, "question": "what?", "answers": people(draw)}


def textvqa_said(row, draw):
    return draw.choice((draw.choice(row["answers"]), some_words(draw))) + draw.choice(("", "", ".", "?", ","))


def gqa_row(number, draw):
    about = {"id": str(number), "imageId": f"n{number}", "types": {"structural": draw.choice(("verify", "query"))}}
    return {**about, "question": "what?", "answer": draw.choice(("yes", "no", "red", "left side"))}


def scienceqa_row(number, draw):
    choices = [f"choice {place}" for place in range(draw.randint(2, 4))]
    about = {"hint": draw.choice(("", "It is hot.")), "subject": draw.choice(("natural science", "social science"))}
    return {**about, "topic": "t", "question": f"what is {number}?", "choices": choices, "answer": draw.randrange(len(choices))}


def ocrbench_row(number, draw):
    question = "what is written?"
    if number % 4 == 0:
        about = {"dataset": "HME100k", "question_type": "Handwritten Mathematical Expression Recognition"}
        return {**about, "question": question, "answer": [r"\frac { x } { Y }"]}
    kind = draw.choice(("Regular Text Recognition", "Doc-oriented VQA"))
    answers = draw.choice((["CENTRE"], ["12 Main St.", "Main St"], ["a\nb"]))
    return {"dataset": "IIIT5K", "question_type": kind, "question": question, "answer": answers}


def ocrbench_said(row, draw):
    text = draw.choice(row["answer"])
    shapes = (text, f"It says {text}.", text.lower(), text.replace(" ", ""), text.replace("\n", " "), text[1:])
    return draw.choice(shapes)


def chartqa_row(number, draw):
    answers = ("10", "0", "-3.5", "12%", "0.5", "Germany", "2015", "[1, 2]", "1,000", "")
    return {"type": draw.choice(("human_test", "augmented_test")), "question": "how many?", "answer": draw.choice(answers)}


def chartqa_said(row, draw):
    others = ("10.5", "10.51", "9.5", "-3.4", "0.12", "12.6%", "germany", "2015.", "nan", "inf", "1000", "")
    return draw.choice((row["answer"], f"{row['answer']} people", draw.choice(others)))


def docvqa_row(number, draw):
    answers = [some_words(draw) for _ in range(draw.randint(1, 3))]
    return {"questionId": str(number), "question": "what?", "docId": number, "answers": answers}


def docvqa_said(row, draw):
    text = draw.choice(row["answers"])
    place = draw.randrange(len(text) + 1)
    begin, end = text[:place], text[place:]
    return draw.choice((text, text.upper(), begin, end + begin, f"{begin}x{end}", f"{text}  {text}", ""))


def refcoco_row(number, draw):
    """Its box is ``x, y, width, height`` in pixels."""
    box = [draw.randrange(32), draw.randrange(24), draw.randint(4, 32), draw.randint(4, 24)]
    about = {"question_id": str(number), "question": "", "file_name": f"COCO_train2014_{number:012d}_0.jpg", "iscrowd": 0}
    return {**about, "answer": [f"man {number}"], "bbox": [float(value) for value in box]}


def refcoco_said(row, draw):
    left, top, width, height = row["bbox"]
    corners = (left / SIZE[0], top / SIZE[1], (left + width) / SIZE[0], (top + height) / SIZE[1])
    box = ",".join(f"{corner + draw.uniform(-0.1, 0.1):.3f}" for corner in corners)
    spaced = f"It is [{box.replace(',', ', ')}]."
    return draw.choice((f"[{box}]", spaced, f"[{box}] or [0,0,1,1]", f"[{box},0.9]", f"({box})", box, "nowhere"))


def caption_row(number, draw):
    nouns, places = ("man", "dog", "red car", "woman's hat"), ("on a bench", "in the street", "near a tree")

    def told():
        return f"A {draw.choice(nouns)} {draw.choice(places)}, {draw.choice(nouns)} {number % 7}."

    about = {"question_id": f"COCO_val2014_{number:012d}.jpg", "id": number, "question": ""}
    return {**about, "answer": [told() for _ in range(5)]}
