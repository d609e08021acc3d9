import pytest

from pargo_mllm.data.scenes.layout import scene_and_picture
from tests.mllm.made.similarity_models import coarse, of_kind, random_clip, trained_clip
from tests.mllm.made.similarity_pairs import unseen, write_swapped


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A CLIP that knows scenes well enough."""
    return trained_clip(tmp_path_factory.mktemp("models") / "clip", count=600, steps=70)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    told = [coarse(scene_and_picture("train", 0, index)[0])[0] for index in range(20)]
    return random_clip(tmp_path_factory.mktemp("models") / "untrained", told)


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A CLIP that knows nothing, and is small."""
    folder = tmp_path_factory.mktemp("models") / "clip"
    of_kind("clip", folder)
    return folder


@pytest.fixture(scope="session")
def held_out():
    """Scenes that no training has seen, each with its coarse caption."""
    return unseen(200)


@pytest.fixture(scope="session")
def swapped(tmp_path_factory, held_out):
    """A folder with a list of them, half of the captions swapped; which ones are as they were."""
    return write_swapped(tmp_path_factory.mktemp("swapped"), held_out)
