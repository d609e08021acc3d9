"""A page takes no other file's place."""

from __future__ import annotations

import os

import pytest

from pargo_mllm.reports.page import PageError, check_page, write_page
from tests.mllm.made.command_line import ended
from tests.mllm.made.photographs import noise_picture
from tests.mllm.made.similarity_pairs import write_list


def test_a_page_may_be_written_again_and_nothing_else(tmp_path):
    page = tmp_path / "page.html"
    check_page(page)
    write_page(page, "a title", ["<p>one</p>"])
    check_page(page)
    (tmp_path / "empty").touch()
    check_page(tmp_path / "empty")
    foreign = {"list": b"[]", "thesis": b"<!doctype html>\n<html lang='en'>mine", "bytes": b"\xff\xd8"}
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    for name in (*foreign, "pipe", "link", "folder"):
        with pytest.raises(PageError, match=name):
            check_page(tmp_path / name)


def test_no_command_writes_its_page_over_a_users_file(tmp_path, capsys):
    data = tmp_path / "data"
    write_list(data, [(noise_picture(30, 30, n), f"a red dog {n}.") for n in range(3)])
    card = tmp_path / "card"
    card.mkdir()
    (card / "README.md").write_text("<!-- made by pargo data card -->")
    (card / "card.html").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    of_filter = ("filter", data, "--model", tmp_path, "--out", tmp_path / "out", "--scores-only", "--html")
    for words in (
        *((*of_filter, data / name) for name in ("data.json", "images/0.png")),
        ("validate", data, "--html", card / "card.html"),
        ("data", "card", data, "--out", card),
    ):
        refused = ended(capsys, *words)
        assert (refused.status, "of pargo, and is not written over" in refused.said) == (2, True), refused.said
    for name in (".", "data.json", "about.json", "images/x.html", "scores-x.parquet", "000000.tar", ".work/x.html"):
        refused = ended(capsys, *of_filter, tmp_path / "out" / name)
        assert (refused.status, "--html" in refused.said) == (2, True), refused.said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
