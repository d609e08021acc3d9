"""Files and folders are what they were or what they shall be, and nothing stays beside them."""

import pytest

from pargo_mllm.files import whole_file, whole_folder


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_takes_its_place_when_it_is_written(tmp_path, shared):
    file = tmp_path / "a.npz"
    for text in ("first", "second"):
        with whole_file(file, shared=shared) as aside:
            aside.write_text(text)
            # some writers choose their format by the ending
            assert not shared or aside.suffix == ".npz"
            assert (file.read_text() if file.exists() else None) != text
        assert file.read_text() == text
    with pytest.raises(UnicodeEncodeError), whole_file(file, shared=shared) as aside:
        aside.write_text("half \ud800", encoding="utf-8")
    assert file.read_text() == "second"
    assert list(tmp_path.iterdir()) == [file]


def test_two_writers_of_a_shared_file_do_not_meet(tmp_path):
    file = tmp_path / "a.txt"
    with whole_file(file, shared=True) as one, whole_file(file, shared=True) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert file.read_text() == "one"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_takes_the_place_of_none_or_an_empty_one(tmp_path):
    folder = tmp_path / "model"
    # of an attempt that was killed
    (tmp_path / ".model.partial").mkdir()
    (tmp_path / ".model.partial" / "old").touch()
    folder.mkdir()
    with whole_folder(folder) as aside:
        (aside / "inner").mkdir()
        (aside / "inner" / "new").write_text("new")
        assert list(folder.iterdir()) == []
    assert [path.name for path in folder.rglob("*")] == ["inner", "new"]
    assert list(tmp_path.iterdir()) == [folder]
    with pytest.raises(OSError, match=r"(?i)not empty"), whole_folder(folder) as aside:
        (aside / "other").touch()
    assert [path.name for path in folder.rglob("*")] == ["inner", "new"]
