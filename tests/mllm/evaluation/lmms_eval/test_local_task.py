"""The command of lmms-eval, from the plug-in's entry point to the file of results, on a task that lies beside the test."""

import json
import os
import random
import subprocess
import sys

import pytest

from pargo_mllm.answering import answer, generation_settings
from pargo_mllm.loading import open_model
from tests.mllm.made.lmms_eval_rows import mme_row
from tests.mllm.made.lmms_eval_tasks import our_figures, their_file

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (make test-lmms-eval): none of its tasks was run")

# which of the pictures each question is about
QUESTIONS = (
    ("which colour is at the top", (0,)),
    ("what shape", (1,)),
    ("is the big circle red", (2, 0)),
    ("what is two", ()),
    ("which colour is at the top", (1,)),
    ("is three small yes no", (0, 1, 2)),
    ("what is blue", (2,)),
)
FUNCTIONS = """
def visual(doc):
    return [picture.convert("RGB") for picture in doc["pictures"]]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def messages(doc):
    shown = [{"type": "image", "url": picture} for picture in visual(doc)]
    return [{"role": "user", "content": [{"type": "text", "text": doc["question"]}, *shown]}]


def results(doc, said):
    return {"right": float(said[0] == doc["answer"])}
"""
TASK = """
task: {name}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function made.visual
doc_to_text: !function made.text
doc_to_target: answer
{asked}
process_results: !function made.results
generation_kwargs:
  max_new_tokens: 8
  temperature: 0
  top_p: 1.0
  num_beams: 1
  do_sample: false
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
"""

# their own task, prompt and rule, on rows that lie here
MME = """
include: {theirs}
task: mme_here
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
"""


@pytest.fixture(scope="module")
def folder(make_model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def own_answers(folder, pictures, text_first):
    """What the package itself says, one question at a time."""
    model, processor = open_model(folder, dtype="auto", attn_implementation=None)
    said = []
    for question, shown in QUESTIONS:
        parts = [{"type": "image", "image": pictures[number]} for number in shown]
        words = [{"type": "text", "text": question}]
        turn = {"role": "user", "content": [*words, *parts] if text_first else [*parts, *words]}
        said += answer(model, processor, [[turn]], **generation_settings(8, 0))
    return said


def write_task(folder, pictures, answers, asked):
    import datasets

    text, picture = datasets.Value("string"), datasets.Image()
    columns = {"question": text, "pictures": datasets.Sequence(picture), "answer": text}
    rows = {
        "question": [question for question, _ in QUESTIONS],
        "pictures": [[pictures[number] for number in shown] for _, shown in QUESTIONS],
        "answer": answers,
    }
    data = folder / "questions.parquet"
    datasets.Dataset.from_dict(rows, datasets.Features(columns)).to_parquet(data)
    task = folder / "tasks" / "made_here"
    task.mkdir(parents=True)
    (task / "made.py").write_text(FUNCTIONS)
    (task / "made_here.yaml").write_text(TASK.format(name="made_here", data=data, asked=asked))
    return folder / "tasks"


def run_lmms_eval(tmp_path, model, tasks, batch_size, launcher=("-m", "lmms_eval"), task="made_here"):
    """(answers in the order of the questions, figures by name, what it printed)."""
    out = tmp_path / "out"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "eval", "--model", "pargo", "--model_args", f"pretrained={model}"]
    command += ["--tasks", task, "--include_path", str(tasks), "--batch_size", str(batch_size), "--device", "cpu"]
    command += ["--log_samples", "--output_path", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **offline}, **pipes) as process:
        try:
            printed, complained = process.communicate(timeout=300)
        finally:
            process.terminate()  # torchrun then ends its workers; killed, it would leave them
    # it ends with 0 whatever happened
    results = list(out.rglob("*_results.json"))
    assert len(results) == 1, printed[-4000:] + complained[-4000:]
    (samples,) = out.rglob(f"*_samples_{task}.jsonl")
    said = {row["doc_id"]: row["filtered_resps"] for row in map(json.loads, samples.read_text().splitlines())}
    assert sorted(said) == list(range(len(said)))
    figures = json.loads(results[0].read_text())["results"][task]
    return [said[index] for index in sorted(said)], figures, printed


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_commands_answers_are_the_packages_own(folder, pictures, tmp_path, batch_size):
    own = own_answers(folder, pictures, text_first=False)
    assert len(set(own)) > 4  # they tell the questions apart
    right = [*own[:4], "something else", "", own[6] + "."]
    tasks = write_task(tmp_path, pictures, right, "")
    said, figures, _ = run_lmms_eval(tmp_path, folder, tasks, batch_size)
    assert (said, figures["right,none"]) == (own, pytest.approx(4 / 7))


def test_a_tasks_own_messages_keep_their_order(folder, pictures, tmp_path):
    own = own_answers(folder, pictures, text_first=True)
    assert own != own_answers(folder, pictures, text_first=False)
    tasks = write_task(tmp_path, pictures, own, "doc_to_messages: !function made.messages")
    said, figures, _ = run_lmms_eval(tmp_path, folder, tasks, 2)
    assert (said, figures["right,none"]) == (own, 1.0)


def test_two_processes_share_the_questions_and_answer_as_one(folder, pictures, tmp_path):
    own = own_answers(folder, pictures, text_first=False)
    tasks = write_task(tmp_path, pictures, own, "")
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lmms_eval")
    said, figures, printed = run_lmms_eval(tmp_path, folder, tasks, 2, launch)
    assert (said, figures["right,none"]) == (own, 1.0)
    # seven questions: one process has four of them, the other three
    assert "Running on rank 0" in printed
    assert "Running on rank 1" in printed


def test_mme_has_the_score_that_ours_gives_the_same_answers(make_model, processor, pictures, tmp_path):
    import datasets

    model = make_model()
    answers = processor.tokenizer.convert_tokens_to_ids(["yes", "no"])
    model.generation_config.suppress_tokens = [number for number in range(len(processor.tokenizer)) if number not in answers]
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    draw = random.Random(3)
    rows = [{**mme_row(number, draw), "image": pictures[number // 2 % 3]} for number in range(40)]
    data = tmp_path / "mme.parquet"
    datasets.Dataset.from_list(rows).to_parquet(data)
    task = tmp_path / "tasks" / "mme_here"
    task.mkdir(parents=True)
    (task / "mme_here.yaml").write_text(MME.format(theirs=their_file("mme/mme.yaml"), data=data))
    said, figures, _ = run_lmms_eval(tmp_path, folder, tmp_path / "tasks", 4, task="mme_here")
    ours = our_figures("mme", "official", data, said)
    assert ours["perception"] == pytest.approx(figures["mme_perception_score,none"])
    assert ours["cognition"] == pytest.approx(figures["mme_cognition_score,none"])
    assert set(" ".join(said).split()) == {"yes", "no"}
    assert 0 < ours["perception"] + ours["cognition"] < 1000
