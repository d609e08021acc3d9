import json

import pytest

from pargo_mllm.data.scenes.layout import scene_and_picture
from tests.mllm.made.similarity_models import coarse, random_clip, trained_clip


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A CLIP that knows scenes."""
    return trained_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    told = [coarse(scene_and_picture("train", 0, index)[0])[0] for index in range(20)]
    return random_clip(tmp_path_factory.mktemp("models") / "untrained", told)


@pytest.fixture(scope="session")
def held_out():
    """500 scenes that no training has seen, each with its coarse caption."""
    scenes = [scene_and_picture("test", 0, index) for index in range(500)]
    return [(picture, coarse(scene)[0]) for scene, picture in scenes]


@pytest.fixture(scope="session")
def swapped(tmp_path_factory, held_out):
    """A list of them in which every second pair has the caption of the next such pair; which ones are as they were."""
    folder = tmp_path_factory.mktemp("swapped")
    (folder / "images").mkdir()
    told = [caption for _, caption in held_out]
    wrong = list(range(0, len(told), 2))
    for index, other in zip(wrong, wrong[1:] + wrong[:1], strict=True):
        told[index] = held_out[other][1]
    records = []
    for index, (picture, _) in enumerate(held_out):
        picture.save(folder / "images" / f"{index}.png", compress_level=1)
        turns = [{"from": "human", "value": "<image>\ndescribe"}, {"from": "gpt", "value": f"{told[index]}."}]
        records.append({"id": f"s{index}", "image": f"{index}.png", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records))
    return folder, [said == caption for said, (_, caption) in zip(told, held_out, strict=True)]
