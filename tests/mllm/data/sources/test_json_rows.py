"""Long objects in JSON, read a value at a time, against the standard library's reading of the whole."""

import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.sources import json_rows
from pargo_mllm.data.sources.json_rows import json_list_of, json_members

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
        ("", "begins with ''"),
        ("[]", r"begins with '\['"),
        ("{", "element 0"),
        ('{"a" 1}', "no name with ':'"),
        ("{1: 1}", "no name with ':'"),
        ('{"a": 1 "b": 2}', "followed by '\"'"),
        ('{"a": }', "element 0"),
        ('{"a": 1,}', "element 1"),
        ('{"a": 1} 2', "something follows"),
        ('{"a": [1, 2}', "element 0"),
        ('{"a": ' + "[" * 100_000, "cannot be read as a JSON object"),
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
