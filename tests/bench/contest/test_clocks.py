"""The GPU's clocks, where something tells them."""

import torch

from bench.contest import clocks


def test_clocks_are_read_where_they_can_be(monkeypatch):
    assert clocks.clocks(torch.device("cpu")) == "unknown"
    monkeypatch.setattr(clocks.torch.cuda, "get_device_properties", lambda device: type("Device", (), {"uuid": "1-2"}))
    monkeypatch.setattr(clocks, "_by_library", lambda name: None)
    asked = []

    def answer(command, **_):
        asked.append(command)
        return type("Done", (), {"stdout": "1980, 2619\n"})

    monkeypatch.setattr(clocks.subprocess, "run", answer)
    assert clocks.clocks(torch.device("cuda")) == "SM 1980 MHz, memory 2619 MHz"
    # of this GPU, and only asked for
    assert asked[0][:3] == ["nvidia-smi", "--id", "GPU-1-2"]
    assert all(word.startswith("--query") or word.startswith("--format") for word in asked[0][3:])
    monkeypatch.setattr(clocks.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError))
    assert clocks.clocks(torch.device("cuda")) == "unknown"
