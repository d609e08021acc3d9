"""The training step as a benchmark: every way is the same step, what is not is found before it is timed."""

import csv
from dataclasses import replace

import pytest
import torch

from bench import train
from bench.contest.provider import Place
from bench.contest.records import Environment, ResultFile, read_rows
from bench.problems.training import LENGTHS, SIZES, STAGE_LENGTHS, TrainingProblem
from bench.workloads.trainee import DENSE, WAYS, Trainee, TrainingWay, ways_of
from bench.workloads.training_step import PARTS, measure_training, needed_bytes
from pargo_mllm.data.feeding import packing
from pargo_mllm.projectors.attention import PartialGlobal

GIB = 2**30
FLASH = "flash_attention_2"


def steps(*arguments, **options):
    """The rows of whole steps, by way."""
    rows = measure_training(*arguments, **options)
    return {row.provider: row for row in rows if row.direction == "step"}


def tiny(stage, **changes):
    problem = TrainingProblem("tiny", stage, STAGE_LENGTHS[stage], pictures=3, seed=0, gradient_checkpointing=False, dry=True)
    return replace(problem, **changes)


@pytest.mark.parametrize("stage", [1, 2])
def test_every_way_is_the_same_step(setting, stage):
    problem = tiny(stage)
    # the layout of flash attention, which needs a GPU, runs on sdpa too
    rows = measure_training(problem, 3, setting, ways=(*ways_of(problem), TrainingWay("pargo", "documents")))
    assert [row.configuration["patch_loss"] for row in rows].count(True) == (len(PARTS) + 1) * (stage == 1)
    parts = {(row.provider, row.direction): row.median_ms for row in rows}
    rows = [row for row in rows if row.direction == "step"]
    texts = [sum(question + answer for question, answer in pairs) for pairs in problem.said()]
    for row in rows:
        known, sizes = row.details, row.configuration
        if sizes["attention"] == FLASH:
            assert (row.status, row.median_ms) == ("unavailable", None)
            assert row.reason == "flash-attn is not installed, or sees no GPU"
            continue
        assert (row.status, row.reason) == ("ok", "")
        # the beginning, 12 + 2 tokens of the picture, the words
        assert sizes["tokens"] == sum(1 + 14 + text for text in texts)
        assert sizes["labels"] == sum(answer for pairs in problem.said() for _, answer in pairs)
        assert known["tokens_per_s"] == pytest.approx(sizes["tokens"] / row.median_ms * 1e3)
        assert known["flops_per_s"] == pytest.approx(known["model_flops"] / row.median_ms * 1e3)
        assert 0 < row.q20_ms <= row.median_ms <= row.q80_ms
        assert all(0 < parts[row.provider, part] < row.q80_ms for part in PARTS)
        # nobody knows a CPU's peak
        assert known["mfu"] is None
        assert ("loss" not in known) == (row.error is None) == (sizes["projector"] == "without-attention")
    shapes = {row.provider: tuple(row.details.get(name) for name in ("num_rows", "row_length")) for row in rows}
    assert shapes["sdpa, padded"] == (3, 15 + max(texts))
    assert shapes["pargo, packed"] == (1, rows[0].configuration["tokens"])
    times = {row.provider: row.median_ms for row in rows}
    packed = next(row for row in rows if row.provider == "pargo, packed")
    assert packed.speedup_over_dense == pytest.approx(times["sdpa, padded"] / packed.median_ms)
    # fp32 weights, and two moments of each that trains
    weights = 4 * packed.configuration["parameters"] + 8 * packed.configuration["trained"]
    assert packed.details["held_bytes"] == pytest.approx(weights, rel=0.05) or stage == 2


@pytest.mark.parametrize("stage", [1, 2])
def test_a_wrong_kernel_is_not_timed(setting, monkeypatch, stage):
    right = PartialGlobal.attend
    monkeypatch.setattr(PartialGlobal, "attend", lambda self, *args, **options: 1.001 * right(self, *args, **options))
    found = steps(tiny(stage), 0, setting)
    for way, row in found.items():
        if way.startswith("pargo") and row.configuration["attention"] != FLASH:
            assert row.status == "wrong"
            assert "twice the dense way's" in row.reason
            assert row.median_ms is None
    assert {found[way].status for way in ("sdpa, padded", "sdpa, packed")} == {"ok"}


def test_packing_that_leaks_is_not_timed(setting, monkeypatch):
    right = packing.block_mask
    monkeypatch.setattr(packing, "block_mask", lambda documents, segments: right(documents.clamp(max=0), segments))
    found = {way: row.status for way, row in steps(tiny(1), 0, setting).items()}
    assert [found[f"sdpa, {rows}"] for rows in ("padded", "packed")] == ["ok", "wrong"]


def test_a_way_that_fails_spares_the_others(setting, monkeypatch):
    right = PartialGlobal.attend

    def fail(self, query, *rest, **options):
        # operations are counted on tensors without memory
        if query.device.type != "meta":
            raise RuntimeError("out of memory")
        return right(self, query, *rest, **options)

    monkeypatch.setattr(PartialGlobal, "attend", fail)
    found = steps(tiny(1), 0, setting)
    assert (found["pargo, packed"].status, found["pargo, packed"].reason) == ("failed", "RuntimeError: out of memory")
    assert found["sdpa, packed"].status == "ok"


def test_measuring_leaves_the_weights_as_they_are():
    """Verified in a wider dtype and stepped with AdamW: all ways compute on the same weights, the last one too."""
    trainee = Trainee(tiny(2), Place(torch.device("cpu"), torch.bfloat16))
    before = {name: weight.clone() for name, weight in trainee.model.named_parameters()}
    # what pargo train does: frozen weights in bf16, trained ones in fp32
    assert {weight.dtype for weight in trainee.trained.values()} == {torch.float32}
    assert {weight.dtype for name, weight in before.items() if "projector" not in name and "lora_" not in name} == {
        torch.bfloat16
    }
    batch = trainee.batch(DENSE, tiny(2).examples())
    trainee.exact(batch)
    trainee.step(DENSE, batch)(lambda: None)
    for name, weight in trainee.model.named_parameters():
        assert weight.dtype == before[name].dtype
        assert torch.equal(weight, before[name]), name


def test_packed_rows_are_as_long_as_they_may_be():
    problem = tiny(1, row_length=60)
    assert sorted(problem.example_lengths()) == [17, 17, 41]
    trainee = Trainee(problem, Place(torch.device("cpu"), torch.float32))
    shapes = {way.rows: trainee.batch(way, problem.examples())["input_ids"].shape for way in WAYS}
    assert shapes == {"padded": (3, 41), "packed": (2, 58), "documents": (1, 75)}


def test_lengths_are_those_that_are_stated():
    generator = torch.Generator().manual_seed(0)
    captions = [LENGTHS["captions"].draw(generator) for _ in range(4000)]
    assert sum(answer for ((_, answer),) in captions) / 4000 == pytest.approx((52 + 921) / 2 / 4.5, rel=0.05)
    conversations = [LENGTHS["conversations"].draw(generator) for _ in range(4000)]
    long = [pairs[0][1] for pairs in conversations if pairs[0][0] == 20 and pairs[0][1] > 5]
    assert len(long) / 4000 == pytest.approx(0.1, abs=0.02)
    assert sum(long) / len(long) == pytest.approx(609 / 4.5, rel=0.05)
    assert max(map(len, conversations)) == 10
    assert tiny(1).said() == tiny(1).said() != tiny(1, seed=1).said()


def test_the_papers_size_fits_a_gpu_of_80_gib():
    place = Place(torch.device("cpu"), torch.bfloat16)
    problems = [TrainingProblem("paper", 2, "conversations", pictures=8, seed=0, language_layers=layers) for layers in (1, 2)]
    one, two = (needed_bytes(problem, place) for problem in problems)
    # all layers are alike
    needed = one + 31 * (two - one)
    # the most are 7B weights in fp32, to verify with
    assert 4 * 6.7e9 < needed < 60 * GIB
    text = SIZES["paper"].architecture["text_config"]
    assert (text["num_hidden_layers"], text["hidden_size"]) == (32, 4096)


def test_the_command_writes_rows_and_a_picture(tmp_path, capsys):
    assert train.main(["--dry-run", "--device", "cpu", "--stage", "2", "--pictures", "2", "--out", str(tmp_path)]) == 0
    rows = read_rows(tmp_path / "train_paper.csv")
    assert [row.provider for row in rows if row.direction == "step"] == [str(way) for way in WAYS]
    assert {row.configuration["gradient_checkpointing"] for row in rows} == {True}
    with open(tmp_path / "train_paper.csv", newline="") as file:
        assert all(line["commit"] and line["torch"] for line in csv.DictReader(file))
    assert {file.name for file in tmp_path.iterdir()} == {"train_paper.csv", "train_paper.png"}
    told = capsys.readouterr().out
    assert "tokens/s" in told
    assert "flash_attention_2: unavailable: flash-attn is not installed" in told
    with ResultFile(tmp_path / "again.csv", Environment("m", 2, "P", "t", "t", "p", "c", True)) as results:
        for row in rows:
            results.add(row)
    assert read_rows(tmp_path / "again.csv") == rows


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--row-length", "310"], "--row-length 310: an example of stage 1 has"),
        (["--pictures", "0"], "0 must be at least 1"),
        (["--size", "huge"], "'paper', 'small', 'tiny'"),
    ],
)
def test_what_cannot_be_measured_is_an_error(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main([*arguments, "--device", "cpu"])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
