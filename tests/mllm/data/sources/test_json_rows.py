"""Long objects in JSON, read a value at a time, against the standard library's reading of the whole."""

import gzip
import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.preparation.official_files import OfficialFiles
from pargo_mllm.data.sources import json_rows
from pargo_mllm.data.sources.json_rows import json_list_of, json_members
from pargo_mllm.errors import UserError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    told=st.dictionaries(st.text(max_size=4), values, max_size=5),
    indent=st.sampled_from([None, 2]),
    ascii=st.booleans(),
    chunk=st.integers(1, 40),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_an_object_is_what_the_standard_library_reads(tmp_path, monkeypatch, told, indent, ascii, chunk, mark):
    monkeypatch.setattr(json_rows, "CHUNK", chunk)
    file = tmp_path / "told.json"
    file.write_text(mark + json.dumps(told, indent=indent, ensure_ascii=ascii), "utf-8", "surrogatepass")
    assert list(json_members(file)) == list(told.items())
    for name, value in told.items():
        if isinstance(value, list):
            assert [row.value for row in json_list_of(file, name)] == value
        else:
            with pytest.raises(CorpusError, match="it has no list"):
                list(json_list_of(file, name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        (" \n\ufeff", "it is empty"),
        ("[]", r"begins with '\['"),
        ("{", "element 0"),
        ('{"a" 1}', "no name with ':'"),
        ("{1: 1}", "no name with ':'"),
        ('{"a": 1 "b": 2}', "followed by '\"'"),
        ('{"a": }', "element 0"),
        ('{"a": 1,}', "element 1"),
        ('{"a": 1} 2', "something follows"),
        ('{"a": [1, 2}', "element 0"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read as a JSON object"),
    ],
)
def test_what_is_no_object_is_named(tmp_path, text, message):
    file = tmp_path / "told.json"
    file.write_text(text)
    with pytest.raises(CorpusError, match=message) as raised:
        list(json_members(file))
    assert str(file) in str(raised.value)
    with pytest.raises(CorpusError):
        list(json_list_of(file, "b"))


def test_a_name_that_stands_twice_comes_twice(tmp_path):
    file = tmp_path / "told.json"
    file.write_text('{"a": [1], "b": [[2]], "a": [3]}')
    assert list(json_members(file)) == [("a", [1]), ("b", [[2]]), ("a", [3])]
    assert [row.value for row in json_list_of(file, "a")] == [1, 3]


def test_memory_does_not_grow_with_the_object(tmp_path):
    file = tmp_path / "told.json"
    file.write_text(json.dumps({str(number): {"question": "x" * 4000} for number in range(5000)}))
    tracemalloc.start()
    try:
        assert sum(1 for _ in json_members(file)) == 5000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 2e7
    assert peak < 8e6


LINES = ["[", '{"id": "ä"},', '{"id": "ö"},', '{"id": "ü"}', "]"]


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    ("line", "put", "within"),
    [(2, '{"id": "ö"};', 11), (3, '{"id" "ü"}', 6), (3, '{"id": x}', 7), (4, "]}", 1), (3, "12a", 2), (0, "[{]", 2)],
)
def test_a_fault_is_placed_by_line_and_byte_of_the_file(line, put, within, mark, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "CHUNK", chunk)
    content = [text.encode() for text in (*LINES[:line], put, *LINES[line + 1 :])]
    (tmp_path / "list.json").write_bytes(mark + b"\n".join(content))
    byte = len(mark) + sum(len(one) + 1 for one in content[:line]) + len(put[:within].encode())
    with pytest.raises(CorpusError, match=rf"line {line + 1} \(byte {byte}\)"):
        list(json_rows.json_rows(tmp_path / "list.json"))


@pytest.mark.parametrize("chunk", [5, 1000])
@pytest.mark.parametrize("cut", range(1, len("\n".join(LINES).encode())))
def test_a_file_that_is_cut_is_said_to_be(cut, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "CHUNK", chunk)
    content = "\n".join(LINES).encode()
    (tmp_path / "list.json").write_bytes(content[:cut])
    with pytest.raises(CorpusError) as raised:
        list(json_rows.json_rows(tmp_path / "list.json"))
    said = str(raised.value)
    # half a character at the end is none of UTF-8
    assert "a part of it is missing" in said or "a part of the file is missing" in said or "is no UTF-8" in said


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[1]".encode("utf-16"), "it is UTF-16: save it as UTF-8"),
        (gzip.compress(b"[1]", mtime=0), "it is compressed: unpack it"),
        (b"PK\x03\x04 and so on", "it is a zip archive: unpack it"),
        ("[1,\n'ä']".encode("latin-1"), "byte 5 is no UTF-8: save it as UTF-8"),
        (b"", "it is empty"),
    ],
)
@pytest.mark.parametrize("read", ["json", "rows", "members", "lines"])
def test_what_is_no_text_is_said_to_be_in_the_same_words(read, content, why, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    if read == "lines" and why.startswith(("byte", "it is empty")):
        # a line of such a text is counted
        return
    with pytest.raises(UserError, match=f"a.json cannot be read as .*: {why}"):
        list(getattr(OfficialFiles(tmp_path), read)("a.json"))
