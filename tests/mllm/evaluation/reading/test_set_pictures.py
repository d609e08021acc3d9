"""The pictures of a benchmark are found as its files name them, and nothing outside of its folder is."""

import pytest

from pargo_mllm.data.pictures import PictureError
from pargo_mllm.evaluation.reading.set_pictures import PictureFolder, last_name, same_picture
from tests.mllm.made.pictures_in_rows import colour, png


@pytest.fixture
def folder(tmp_path):
    below = {
        "a.png": "red",
        "images/b.png": "lime",
        "OCR/images/0001.png": "blue",
        "posters/images/0001.png": "white",
        "deep/down/c.png": "black",
    }
    for name, shown in below.items():
        file = tmp_path / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(shown))
    (tmp_path / "outside.png").write_bytes(png("red"))
    (tmp_path / "set" / "questions.json").write_text("[]")
    return tmp_path / "set"


def test_a_name_opens_its_picture(folder):
    for data in (folder, folder / "questions.json"):
        pictures = PictureFolder(data)
        assert colour(pictures.opens("a.png")) == (255, 0, 0)
        assert colour(pictures.opens("b.png")) == (0, 255, 0)
        assert colour(pictures.opens("c.png")) == (0, 0, 0)
        assert colour(pictures.opens("images/0001.png".replace("images", "OCR/images"))) == (0, 0, 255)
        assert colour(pictures.opens("elsewhere/c.png")) == (0, 0, 0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.png", "is not in"),
        ("0001.png", "is the name of 2 pictures in .*: OCR/images/0001.png, posters/images/0001.png"),
        ("../outside.png", "it leads out of it"),
        ("images/../../outside.png", "it leads out of it"),
        ("{folder}/../outside.png", "it leads out of it"),
        ("", "it leads out of it"),
        ("a" * 5000, "it leads out of it"),
        ("a\0.png", "it leads out of it"),
        ("\ud83d.png", "it leads out of it"),
        ("http://127.0.0.1:1/absent.png", "is not in"),
        ("questions.json", "cannot be read as a picture"),
    ],
)
def test_what_is_no_picture_of_the_folder_is_refused_when_it_is_opened(folder, name, said):
    opens = PictureFolder(folder).opens(name.format(folder=folder))
    with pytest.raises(PictureError, match=said):
        opens()


def test_links_in_a_circle_are_walked_once(folder):
    (folder / "round").symlink_to(folder, target_is_directory=True)
    assert colour(PictureFolder(folder).opens("elsewhere/c.png")) == (0, 0, 0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a.jpg", "val2014/a.jpg", True),
        ("a.jpg", "a", True),
        ("COCO_val2014_000000310196.jpg", "310196", True),
        ("000000310196.jpg", "val2014/COCO_val2014_000000310196.jpg", True),
        ("000000310196.jpg", "000000310197.jpg", False),
        ("OCR/0001.jpg", "posters/0001.jpg", False),
        ("v1_1.png", "v1_10.png", False),
        ("sha256:00", "a.jpg", True),
        ("", "a.jpg", True),
        ("/", "//", False),
    ],
)
def test_names_of_one_picture(one, other, same):
    assert same_picture(one, other) is same_picture(other, one) is same
    if same and not one.startswith("sha256:") and one:
        assert last_name(one) == last_name(other)
