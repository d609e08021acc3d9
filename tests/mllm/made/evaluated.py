"""Answers that are marked, benchmarks that mark them, and the folders of their runs, without a model."""

import json
import random

from PIL import Image

from pargo_mllm.evaluation.benchmark import Benchmark, Item, Mark, Rule, accuracy, each, mean
from pargo_mllm.evaluation.runs.failures import save_failures
from pargo_mllm.evaluation.runs.run_folder import write_marks


def marked(value, id, picture="", part="", said="said", **item):
    question = Item(id, item.pop("question", f"what is {id}?"), picture=picture, part=part, **item)
    return Mark(question, said, value, read=said[:1])


def marks_of(values, pictures, parts=None):
    """Values 0...1 of questions, and the picture of each."""
    parts = parts or [""] * len(values)
    return [marked(float(v), str(i), str(p), part) for i, (v, p, part) in enumerate(zip(values, pictures, parts, strict=True))]


def drawn_marks(seed=0, pictures=40, rate=0.6, alike=0.8, each_picture=3, parts=("left", "right")):
    """Answers to several questions a picture, right or wrong, alike on a picture."""
    rng = random.Random(seed)
    marks = []
    for picture in range(pictures):
        common = rng.random() < rate
        for number in range(each_picture):
            right = common if rng.random() < alike else rng.random() < rate
            part = parts[number % len(parts)]
            marks.append(marked(float(right), f"{picture}-{number}", f"p{picture}", part, answer="yes"))
    return marks


def both_right(marks):
    """MME's figure: 100 x the share of right answers + 100 x the share of pictures with all right."""
    pictures = {}
    for mark in marks:
        pictures.setdefault(mark.item.picture, []).append(mark.value)
    return {"points": 100 * mean(mark.value for mark in marks) + 100 * mean(float(all(v)) for v in pictures.values())}


def benchmark(name="toy", figures=accuracy, headline="accuracy", rules=("exact", "lenient"), **others):
    made = tuple(Rule(rule, each(lambda one: (float(one.text == one.item.answer), one.text)), figures) for rule in rules)
    return Benchmark(name, name.upper(), "{question}", None, None, made, None, headline, **others)


def write_run(folder, marks, bench, rule="exact", **about):
    """The folder that an evaluation writes; ``about`` is on top of run.json."""
    folder.mkdir(parents=True)
    run = {
        "command": ["pargo", "eval", "models/a", "--benchmark", bench.name],
        "benchmark": bench.name,
        "rule": rule,
        "model": "models/a",
        "weights": "00ff" * 16,
        "data": "data/toy",
        "prompt": bench.prompt,
        "settings": {"batch_size": 8, "dtype": "float32"},
        "versions": {"pargo": "1.2.3"},
        **about,
    }
    figures = bench.rule(rule).figures(marks)
    result = {**figures, "benchmark": bench.name, "rule": rule, "questions": len(marks), "dtype": "float32"}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "result.json").write_text(json.dumps(result))
    write_marks(folder, marks, bench.asked)
    save_failures(folder, marks)
    return folder


def red():
    return Image.new("RGB", (900, 300), "red")
