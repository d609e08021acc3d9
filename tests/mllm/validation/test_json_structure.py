"""Where elements stand, against what the JSON parser says."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from pargo_mllm.validation import json_structure
from pargo_mllm.validation.json_structure import count_keys, elements, line_borders, list_borders

TEXTS = st.text(st.sampled_from('ab"\\,:[]{}\n é\U0001f600'), max_size=20)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(TEXTS, inside, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(VALUES, min_size=1, max_size=12),
    chunk=st.sampled_from([1, 2, 3, 7, 4096]),
    size=st.sampled_from([1, 50, 10**6]),
    records=st.sampled_from([1, 3, 10**6]),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 1]),
)
def test_pieces_hold_every_element_and_count_its_keys(values, chunk, size, records, ascii_only, indent, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "elements.json"
    content = json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode()
    file.write_bytes(content)
    before = json_structure._CHUNK, json_structure.PIECE_BYTES, json_structure.PIECE_RECORDS
    json_structure._CHUNK, json_structure.PIECE_BYTES, json_structure.PIECE_RECORDS = chunk, size, records
    try:
        borders = list_borders(file, 1)
    finally:
        json_structure._CHUNK, json_structure.PIECE_BYTES, json_structure.PIECE_RECORDS = before
    assert borders.closed
    assert borders.end == len(content) - 1
    found = []
    for piece in borders.pieces:
        within = content[piece.start : piece.end]
        for start, end, keys in zip(*elements(within, False), strict=True):
            found.append(json.loads(within[start:end]))
            assert keys == count_keys(found[-1])
    assert found == values


def test_a_broken_line_says_nothing_of_the_next_one(tmp_path):
    lines = [b'{"a": "x', b'{"b": 1, "c": {"d": ":"}}', b'"', b'{"e": 2}']
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"\n".join(lines))
    (piece,) = line_borders(file, 0).pieces
    starts, ends, keys = elements(file.read_bytes()[piece.start : piece.end], True)
    assert [file.read_bytes()[start:end] for start, end in zip(starts, ends, strict=True)] == lines
    assert keys.tolist()[1::2] == [3, 1]
