"""Files of predictions, written and scored."""

import json

from pargo_mllm.evaluation.benchmarks import find
from pargo_mllm.evaluation.joining import read_joined
from pargo_mllm.evaluation.scoring import chosen_rule, is_ranked, score


def scored(name, predictions, answers=None, rule=None):
    benchmark = find(name)
    answered = read_joined(benchmark, predictions, answers).answered
    return score(benchmark, chosen_rule(benchmark, rule, is_ranked(answered)), answered).result


def written(folder, name, text):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def lines(folder, rows, name="predictions.jsonl"):
    return written(folder, name, "".join(json.dumps(row) + "\n" for row in rows))
