"""Pictures that rows hold are laid aside once, in bounded memory, and come back as they were."""

import base64
import hashlib
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pargo_mllm.data.pictures import PictureError
from pargo_mllm.evaluation.benchmark import EvaluationError
from pargo_mllm.evaluation.reading.records import Pictures, rows_with_pictures
from pargo_mllm.evaluation.reading.rows import read_rows
from pargo_mllm.evaluation.reading.shelf import Shelf
from tests.mllm.made.photographs import noise_picture
from tests.mllm.made.pictures_in_rows import colour, encoded, png


def test_a_row_may_hold_its_picture():
    content = png("lime")
    key = "sha256:" + hashlib.sha256(content).hexdigest()[:32]
    text = base64.b64encode(content).decode()
    for value in (content, text, text[:20] + "\n" + text[20:], {"bytes": content, "path": "x.png"}):
        held = Shelf().keep(value, "row 1")
        assert held.key == key
        assert colour(held.opens) == (0, 255, 0)


@pytest.mark.parametrize("value", [None, "", "no base64!", "QUJD", b"", {"bytes": None, "path": "x.png"}, {}, 5, [1]])
def test_a_row_that_holds_none_says_so_when_it_is_opened(value):
    held = Shelf().keep(value, "a.tsv, line 2")
    assert held.key.startswith("sha256:")
    with pytest.raises(PictureError, match=r"^a\.tsv, line 2"):
        held.opens()


def test_memory_does_not_grow_with_a_tables_pictures(tmp_path):
    """Sixty pictures of 150 kB, which do not shrink, and memory for seven."""
    file = tmp_path / "many.tsv"
    with open(file, "w") as table:
        table.write("index\timage\tquestion\n")
        for number in range(60):
            table.write(f"{number}\t{base64.b64encode(encoded(noise_picture(224, 224, number))).decode()}\tq\n")
    assert file.stat().st_size > 10 * 2**20
    tracemalloc.start()
    pictures = Pictures(tmp_path, Shelf(2**20))
    rows = [pictures.taken(row) for row in read_rows(file)]
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2**20
    # beside the shelf a row or two, as text and as bytes
    assert peak < 4 * 2**20
    for number in (0, 31, 59):
        shown = pictures.of(rows[number])["pictures"][0]()
        assert np.array_equal(np.asarray(shown), np.asarray(noise_picture(224, 224, number)))


def test_the_same_picture_is_kept_once():
    shelf, content = Shelf(), png("red")
    keys = {shelf.keep(value, "row").key for value in (content, base64.b64encode(content).decode(), {"bytes": content})}
    assert len(keys) == 1
    assert shelf.size == len(content)
    shelf.keep(png("blue"), "row")
    assert shelf.size == len(content) + len(png("blue"))


@pytest.mark.parametrize("in_memory", [1, 2**28])
def test_threads_get_their_own_pictures(in_memory):
    shelf = Shelf(in_memory)
    pictures = [noise_picture(48, 48, number) for number in range(40)]
    held = [shelf.keep(encoded(picture), f"row {number}") for number, picture in enumerate(pictures)]
    with ThreadPoolExecutor(4) as pool:
        shown = list(pool.map(lambda number: held[number % 40].opens(), range(400)))
    assert all(np.array_equal(np.asarray(shown[number]), np.asarray(pictures[number % 40])) for number in range(400))


def test_pictures_outlive_the_rows_that_held_them():
    opens = Shelf(1).keep(png("blue"), "row").opens
    assert colour(opens) == (0, 0, 255)


def test_a_disk_that_does_not_take_them_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(EvaluationError, match=r"laid into .*absent, which fails: No such file .*TMPDIR"):
        Shelf(1).keep(png("blue"), "row")


def test_a_row_may_show_the_picture_of_another_row_before_or_behind_it(tmp_path):
    (tmp_path / "beside.png").write_bytes(png("white"))
    lines = ["index\timage", f"1\t{base64.b64encode(png('red')).decode()}", "2\t1", "3\t4", "5\tbeside.png", "6\t"]
    lines.insert(3, f"4\t{base64.b64encode(png('blue')).decode()}")
    (tmp_path / "t.tsv").write_text("\n".join(lines))
    rows, pictures = rows_with_pictures(tmp_path, read_rows(tmp_path / "t.tsv"))
    shown = [pictures.of(row) for row in rows]
    assert [len(one.get("pictures", ())) for one in shown] == [1, 1, 1, 1, 1, 0]
    colours = [colour(one["pictures"][0]) for one in shown[:5]]
    assert colours == [(255, 0, 0), (255, 0, 0), (0, 0, 255), (0, 0, 255), (255, 255, 255)]
