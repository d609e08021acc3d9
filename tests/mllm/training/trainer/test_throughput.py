"""What is logged about a step, on a clock that does not run by itself."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pargo_mllm.data.feeding.contents import BatchContents
from pargo_mllm.training.trainer import throughput
from pargo_mllm.training.trainer.throughput import ThroughputMeter

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(throughput.time, "perf_counter", lambda: Clock.now)
    return Clock


class Operations:
    def step(self, contents):
        return 1e12 * contents.tokens


def contents(tokens, pictures):
    return BatchContents(tokens=tokens, pairs=0, labels=0, pictures=pictures)


def test_rates_and_waiting(clock, monkeypatch):
    monkeypatch.setattr(throughput, "peak_flops", lambda device: 8e12)
    meter = ThroughputMeter(Operations(), CPU)
    with meter.waiting():
        clock.now += 1
    meter.add(contents(10, {1: 2}))
    meter.add(contents(6, {3: 1}))
    clock.now += 3
    found = meter.report()
    assert found["tokens_per_second"] == 4
    assert found["images_per_second"] == 0.75
    assert found["data_wait"] == 0.25
    assert found["tflops_per_device"] == 4
    assert found["mfu"] == 0.5
    assert 0.01 < found["memory_gib"] < 1000
    # what follows counts anew
    meter.add(contents(8, {}))
    clock.now += 2
    assert meter.report()["tokens_per_second"] == 4


def test_checkpoints_take_no_time_of_training(clock):
    meter = ThroughputMeter(None, CPU)
    clock.now += 1000
    meter.restart()
    meter.add(contents(8, {}))
    clock.now += 2
    found = meter.report()
    assert found["tokens_per_second"] == 4
    assert "mfu" not in found


def _count(rank, file):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    meter = ThroughputMeter(Operations(), CPU)
    meter.add(contents(10 * (rank + 1), {1: 1}))
    report = meter.report()
    # 30 tokens of both; operations a device are half of all
    assert report["tflops_per_device"] == pytest.approx(report["tokens_per_second"] / 2)
    assert report["images_per_second"] == pytest.approx(report["tokens_per_second"] / 15)
    dist.destroy_process_group()


def test_processes_report_together(tmp_path):
    mp.spawn(_count, (tmp_path / "store",), nprocs=2)


def test_a_known_gpu_has_a_peak(monkeypatch):
    names = {
        "NVIDIA H200": 989e12,
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA GeForce GTX 1080": None,
    }
    from pargo_mllm.training.trainer.flops import peak_flops

    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(torch.device("cuda")) == peak
    assert peak_flops(CPU) is None
