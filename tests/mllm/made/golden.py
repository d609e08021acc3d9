"""Tensors that the released code gave for random weights, kept beside the repository."""

from dataclasses import dataclass

from safetensors import safe_open


@dataclass(frozen=True)
class Golden:
    checkpoint: dict  # under the released names
    io: dict
    metadata: dict


def read_golden(shared, name):
    with safe_open(shared / "golden" / name, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        metadata = file.metadata()

    def below(prefix):
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}

    return Golden(below("checkpoint/"), below("io/"), metadata)
