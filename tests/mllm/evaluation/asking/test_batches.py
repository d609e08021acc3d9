"""Questions put to a model: kept as they are answered, in batches that memory allows, each with its own picture."""

import json

import pytest
import torch

from pargo_mllm.answering.reader import Reader
from pargo_mllm.data.pictures import PictureError
from pargo_mllm.evaluation.asking.batches import Asking, questions
from pargo_mllm.evaluation.asking.run import Settings, ask, open_items
from pargo_mllm.evaluation.benchmark import Benchmark, EvaluationError, Item, Rule, accuracy, each
from pargo_mllm.evaluation.benchmarks.scenes import ALL
from pargo_mllm.evaluation.runs.journal import Journal
from pargo_mllm.evaluation.writing.submissions import json_lines
from tests.mllm.made.miniature_families import make_family
from tests.mllm.made.photographs import noise_picture

(SCENES,) = ALL
CHOICES = {"A": "a cat", "B": "dogs", "C": "many small birds"}
RANKED = Rule("likelihood", mark=each(lambda one: (float(one.text == one.item.answer), one.text)), figures=accuracy, ranks=True)
LETTER = Rule("letter", mark=RANKED.mark, figures=accuracy)


def items(pictures=4, each_has=3, opens=None):
    return [
        Item(
            f"{picture}-{place}",
            f"which is number {place}{'?' * place}",
            "A",
            picture=f"p{picture}",
            choices=CHOICES,
            pictures=(opens or (lambda picture=picture: noise_picture(20 + 7 * picture, 30, picture)),),
        )
        for picture in range(pictures)
        for place in range(each_has)
    ]


def benchmark(asked):
    return Benchmark(
        name="made",
        title="made",
        prompt="{question}\n{choices}",
        read=lambda data: asked,
        predictions=lambda file: [],
        rules=(LETTER, RANKED),
        submission=json_lines("said.jsonl", lambda said: {"id": said.id, "said": said.text}),
    )


@pytest.fixture(scope="module")
def family():
    return make_family("qwen")


def answers(family, folder, asked, rule=LETTER, batch_size=4, weights="w", rank=0, size=1, share=None):
    folder.mkdir(exist_ok=True)
    settings = Settings(None, batch_size, 6, share)
    run = ask(benchmark(asked), rule, asked, folder, Reader(*family, share), settings, weights, rank, size)
    return run, [(said.id, said.text, said.losses) for said in run.predictions]


@pytest.mark.parametrize("rule", [LETTER, RANKED], ids=["said", "ranked"])
def test_batches_sharing_and_processes_change_no_answer(family, tmp_path, rule):
    asked = items()
    run, expected = answers(family, tmp_path / "one", asked, rule, batch_size=1)
    assert run.about["kept_before"] == 0
    assert len({str(said[1:]) for said in expected}) > 1
    assert [id for id, *_ in expected] == [item.id for item in asked]
    for name, options in {
        "many": {"batch_size": 32},
        "odd": {"batch_size": 5},
        "whole": {"batch_size": 5, "share": False},
    }.items():
        _, said = answers(family, tmp_path / name, asked, rule, **options)
        assert [one[:2] for one in said] == [one[:2] for one in expected]
        for (*_, own), (*_, other) in zip(said, expected, strict=True):
            assert own is other is None or own == pytest.approx(other, abs=1e-5)
    # two processes, one behind the other
    asked_of_two = questions(benchmark(asked), rule, asked, {"weights": "w"})
    parts = []
    for rank in range(2):
        folder = tmp_path / f"rank{rank}"
        folder.mkdir()
        asking = Asking(benchmark(asked), Reader(*family), Journal(folder, rank), 4, 6, rank, 2)
        asking.ask(asked_of_two)
        parts.append({question.item.id for question in asked_of_two if question.key in asking.kept})
    assert parts[0] | parts[1] == {item.id for item in asked}
    assert not parts[0] & parts[1]
    assert all(len(part) == 6 for part in parts)


def test_what_was_answered_is_not_asked_again(family, tmp_path):
    asked = items()
    _, expected = answers(family, tmp_path / "run", asked)
    journal = tmp_path / "run" / "answers-0.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines = [line for line in lines if line.strip()]
    # a process that was killed while it wrote, and one of more processes that there were before
    journal.write_bytes(b"".join(lines[:4]) + lines[4][: len(lines[4]) // 2])
    (tmp_path / "run" / "answers-3.jsonl").write_bytes(b"".join(lines[5:8]))
    again, said = answers(family, tmp_path / "run", asked)
    assert (again.about["kept_before"], said) == (7, expected)
    unasked, said = answers(family, tmp_path / "run", asked)
    assert (unasked.about["kept_before"], unasked.about["pictures_a_second"], said) == (12, None, expected)
    # other weights say something else
    assert answers(family, tmp_path / "run", asked, weights="other")[0].about["kept_before"] == 0
    # what is ranked is not what is said
    assert answers(family, tmp_path / "run", asked, RANKED)[0].about["kept_before"] == 0
    assert all(json.loads(line) for line in journal.read_text().splitlines() if line.strip() and line.strip()[-1] == "}")


def test_the_batch_is_halved_when_memory_runs_out(family, tmp_path, capsys):
    asked = items()
    _, expected = answers(family, tmp_path / "enough", asked)
    model, processor = family
    most = 2

    def small_memory(_, args, kwargs):
        if len(kwargs["inputs_embeds"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = model.model.language_model.register_forward_pre_hook(small_memory, with_kwargs=True)
    try:
        run, said = answers((model, processor), tmp_path / "little", asked, batch_size=16, share=True)
        assert said == expected
        assert (run.about["settings"]["batch_size"], run.about["settings"]["batch_size_at_the_end"]) == (16, 2)
        assert "the batch size is 2 from here on" in capsys.readouterr().err
        most = 0
        with pytest.raises(EvaluationError, match="one question at a time"):
            answers((model, processor), tmp_path / "none", asked)
    finally:
        handle.remove()


def test_an_error_that_is_not_memory_stays_what_it_is(family, tmp_path):
    model, processor = family

    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    handle = model.model.language_model.register_forward_pre_hook(broken)
    try:
        with pytest.raises(RuntimeError, match="illegal memory access"):
            answers((model, processor), tmp_path / "run", items(), share=True)
    finally:
        handle.remove()


def test_a_broken_picture_is_named_and_what_was_answered_is_kept(family, tmp_path):
    def broken():
        raise PictureError("p9.png cannot be read as a picture: it is damaged.")

    asked = [*items(2), Item("9-0", "a long question about a picture that is none " * 3, "A", picture="p9", pictures=(broken,))]
    with pytest.raises(EvaluationError, match=r"9-0.*p9\.png cannot be read"):
        answers(family, tmp_path / "run", asked, batch_size=3)
    whole = items(2)
    assert answers(family, tmp_path / "run", whole)[0].about["kept_before"] == 6


def test_each_picture_is_opened_and_encoded_once(family, tmp_path):
    opened = []

    def opens():
        opened.append(1)
        return noise_picture(20, 30)

    asked = items(1, each_has=7, opens=opens)
    run, _ = answers(family, tmp_path / "run", asked, batch_size=2)
    assert len(opened) == 1
    assert run.about["pictures_a_second"] == pytest.approx(1 / run.about["seconds"])


def test_questions_that_cannot_be_asked_are_refused(tmp_path):
    twice = [*items(1), *items(1)]
    with pytest.raises(EvaluationError, match="0-0 comes twice, as questions 0 and 3"):
        open_items(benchmark(twice), tmp_path, None)
    with pytest.raises(EvaluationError, match="needs --data"):
        open_items(benchmark(items()), None, None)
    with pytest.raises(EvaluationError, match="does not exist"):
        open_items(benchmark(items()), tmp_path / "nowhere", None)
    with pytest.raises(EvaluationError, match="no question"):
        open_items(benchmark([]), tmp_path, None)
    with pytest.raises(EvaluationError, match="question x has 1"):
        questions(benchmark([]), RANKED, [Item("x", "?", "A", choices={"A": "one"})], {})
    assert [item.id for item in open_items(benchmark(items()), tmp_path, 2)] == ["0-0", "0-1"]
    assert len({item.id for item in open_items(SCENES, None, 50)}) == 50
