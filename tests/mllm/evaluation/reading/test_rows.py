"""Files of rows: what a stranger's file says arrives as it was written, or the file is refused with the line of the fault."""

import contextlib
import csv
import json
import zipfile

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook
from pyarrow import parquet

from pargo_mllm.evaluation.benchmark import ScoringError
from pargo_mllm.evaluation.reading import tables
from pargo_mllm.evaluation.reading.rows import found, read_json, read_lines, read_rows, rows_of

RECORDS = [{"id": 1, "said": 'Yes\tor\nno, "x"'}, {"id": 2, "said": "naïve, ✓"}]
ONE, TWO = (json.dumps(record, ensure_ascii=False) for record in RECORDS)


def write(folder, name, content):
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def values(file):
    return [dict(row.values) for row in read_rows(file)]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt"])
@pytest.mark.parametrize(
    "content",
    [
        f"{ONE}\n{TWO}\n",
        f"{ONE}\n{TWO}",
        f"{ONE}\r\n\r\n{TWO}\r\n",
        f"\ufeff{ONE}\n{TWO}\n",
        f"{ONE},\n{TWO},\n",
        f"[\n{ONE},\n{TWO}\n]\n",
        f"[{ONE}, {TWO},]",
        json.dumps(RECORDS, indent=2),
        json.dumps(RECORDS[0], indent=2) + "\n" + json.dumps(RECORDS[1], indent=2),
    ],
    ids=["lines", "no last end", "CRLF and empty", "BOM", "commas", "list", "list that ends in a comma", "indented", "objects"],
)
def test_json_in_the_ways_that_people_have_it(tmp_path, name, content):
    assert values(write(tmp_path, name, content)) == RECORDS


def test_a_record_is_named_by_its_first_line(tmp_path):
    text = '[\n{"id": 1,\n"b": 2},\n\n{"id": 2}]'
    assert [row.where for row in read_rows(write(tmp_path, "a.json", text))] == [
        f"{tmp_path}/a.json, line 2",
        f"{tmp_path}/a.json, line 5",
    ]
    text = 'id\tsaid\n1\t"two\nlines"\n2\tx\n'
    assert [row.where for row in read_rows(write(tmp_path, "a.tsv", text))] == [
        f"{tmp_path}/a.tsv, line 2",
        f"{tmp_path}/a.tsv, line 4",
    ]


HOSTILE = {
    "empty": ("a.json", "", "line 1: it is empty"),
    "white space": ("a.jsonl", "\n \r\n", "line 1: it is empty"),
    "no records": ("a.json", "[]", "line 1: it holds no record"),
    "a header alone": ("a.tsv", "id\tsaid\n", "line 1: it holds no record"),
    "latin-1": ("a.jsonl", b'{"id": 1}\n{"said": "na\xefve"}\n', "line 2: its byte 13, 0xef, is no UTF-8"),
    "latin-1 table": ("a.csv", b"id,said\n1,ok\n2,na\xefve\n", "line 3: its byte 5, 0xef, is no UTF-8"),
    "UTF-16": ("a.json", ONE.encode("utf-16"), "line 1: it is UTF-16: save it as UTF-8"),
    "UTF-16 without its mark": ("a.tsv", "id\tsaid\n1\tx\n".encode("utf-16-le"), "line 1: it holds a zero byte"),
    "compressed": ("a.jsonl", b"\x1f\x8b\x08\0", "line 1: it is compressed: unpack it"),
    "old Excel": ("a.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1", "no .xlsx file"),
    "xlsx by name alone": ("a.xlsx", "id\tsaid\n1\tx\n", "line 1: it is no .xlsx file"),
    "damaged xlsx": ("a.xlsx", b"PK\x03\x04nothing", "cannot be read as an xlsx file"),
    "damaged parquet": ("a.parquet", b"PAR1nothing", "row 1: it cannot be read as parquet"),
    "a line cut short": ("a.jsonl", '{"id": 1}\n{"id": 2, "said": "x\n{"id": 3}\n', "line 2: it is no JSON"),
    "a list cut short": ("a.json", '[{"id": 1},\n{"id": 2},\n', "line 3: the file ends before its list does"),
    "a list cut behind a record": ("a.json", '[{"id": 1},\n{"id": 2}', "line 2: the file ends before its list does"),
    "no comma in a list": ("a.json", '[{"id": 1}\n{"id": 2}]', "line 2: a comma is missing"),
    "two lists": ("a.json", '[{"id": 1}]\n[{"id": 2}]', "line 2: something follows the end of the list"),
    "a list that has not begun": ("a.json", '{"id": 1}\n]', "line 2: a list ends that has not begun"),
    "deep": ("a.json", '{"id": 1}\n' + "[" * 100_000, "line 2: it is nested too deeply"),
    "a huge number": ("a.jsonl", '{"id": 1}\n{"id": ' + "9" * 5000 + "}", "line 2: it cannot be read as JSON"),
    "a large number": (
        "a.jsonl",
        '{"id": 1}\n{"id": -1' + "0" * 400 + "}",
        "line 2: it cannot be read as JSON: a number has 402",
    ),
    "half a character": ("a.jsonl", '{"id": 1}\n{"said": "\\ud83d"}', "line 2: a text holds half of a character (\\ud83d)"),
    "half a character in a key": ("a.jsonl", '{"\\uDC00": 1}', "line 1: a text holds half of a character (\\udc00)"),
    "a list for a record": ("a.jsonl", '{"id": 1}\n[1, 2]\n', "line 2: it is a list, no object"),
    "a text for a record": ("a.jsonl", '"yes"\n', "line 1: it is a text, no object"),
    "null for a record": ("a.jsonl", "null\n", "line 1: it is null, no object"),
    "a key twice": ("a.jsonl", '{"id": 1}\n{"id": 2,\n"id": 3}\n', "line 3: the key 'id' comes twice; it is in line 2 already"),
    "a tab in an answer": ("a.tsv", "id\tsaid\n1\tx\n2\ta\tb\n", "line 3: it has 3 fields, and line 1 names 2; a tab inside"),
    "too few fields": ("a.csv", "id,said\n1,x\n2\n", "line 3: it has 1 fields, and line 1 names 2."),
    "a quote without end": ("a.csv", 'id,said\n1,x\n2,"no end\n3,y\n', "line 3: the row that begins here cannot be read"),
    "a bare carriage return": (
        "a.tsv",
        "id\tsaid\n1\ta\rb\n",
        "line 2: the row that begins here cannot be read (a field without",
    ),
    "text behind a quote": ("a.tsv", 'id\tsaid\n1\t"Yes" he said\n', "line 2: the row that begins here cannot be read"),
    "two columns of a name": ("a.csv", "id,id\n1,2\n", "line 1: two columns are named 'id'"),
    "a folder": (".", None, "no file *.parquet"),
    "nothing": ("absent.json", None, "absent.json cannot be read: No such file"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_read_is_refused_with_its_line(tmp_path, case):
    name, content, said = HOSTILE[case]
    file = tmp_path / name if content is None else write(tmp_path, name, content)
    with pytest.raises(ScoringError) as refused:
        list(read_rows(file))
    assert said in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


VALUES = {
    "1": "1",
    "-0.5": "-0.5",
    '" a "': " a ",
    '"no idea"': "no idea",
    "12345678901234567890": "12345678901234567890",
    "null": ScoringError,
    "NaN": ScoringError,
    "Infinity": ScoringError,
    "true": ScoringError,
    "[1]": ScoringError,
    "{}": ScoringError,
}


@pytest.mark.parametrize("written", VALUES)
def test_texts_and_numbers_are_text_and_nothing_else_is(tmp_path, written):
    (row,) = read_rows(write(tmp_path, "a.json", '{"said": ' + written + "}"))
    if isinstance(VALUES[written], str):
        assert row.text("absent", "said") == VALUES[written]
    else:
        with pytest.raises(ScoringError, match=r"a\.json, line 1: 'said' (is|has)"):
            row.text("absent", "said")


def test_a_record_without_the_value_says_what_it_has(tmp_path):
    (row,) = read_rows(write(tmp_path, "a.jsonl", '{"index": 1, "prediction": "A"}'))
    with pytest.raises(ScoringError, match="line 1: it has no 'text' or 'answer'; it has 'index', 'prediction'"):
        row.text("text", "answer")


def test_an_empty_cell_is_an_empty_answer_and_no_text_otherwise(tmp_path):
    """A table cannot tell them apart: a model that said nothing is scored by rule, an id that is missing is not made up."""
    (row,) = read_rows(write(tmp_path, "a.tsv", "id\tprediction\tC\n\t\tnan\n"))
    assert row.answer("prediction") == ""
    assert row.first("C") is None
    with pytest.raises(ScoringError, match="line 2: 'id' has no value"):
        row.text("id")
    (row,) = read_rows(write(tmp_path, "a.jsonl", '{"prediction": null}'))
    with pytest.raises(ScoringError, match="line 1: 'prediction' has no value"):
        row.answer("prediction")


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
records = st.lists(st.fixed_dictionaries({"id": st.integers(), "said": texts}), min_size=1, max_size=5)


@given(records)
def test_json_arrives_as_it_was_written(tmp_path_factory, told):
    folder = tmp_path_factory.mktemp("rows")
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in told)
    assert values(write(folder, "a.jsonl", lines)) == told
    assert values(write(folder, "a.json", json.dumps(told))) == told


@pytest.mark.parametrize("separator", ["\t", ","])
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_tables_arrive_as_they_were_written(tmp_path_factory, separator, told):
    """The oracle is the standard library's writer, whose files are those of pandas."""
    file = tmp_path_factory.mktemp("rows") / ("a.tsv" if separator == "\t" else "a.csv")
    with open(file, "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, delimiter=separator).writerows([("id", "said"), *told])
    expected = [
        {"id": None if one in ("", "nan", "NaN") else one, "said": None if two in ("", "nan", "NaN") else two}
        for one, two in told
    ]
    assert values(file) == expected


@given(st.binary(max_size=200), st.sampled_from(["a.json", "a.tsv", "a.csv", "a.xlsx", "a.parquet", "a.txt"]))
def test_no_bytes_end_in_anything_but_rows_or_a_refusal(tmp_path_factory, content, name):
    file = write(tmp_path_factory.mktemp("rows"), name, content)
    for read in (lambda: list(read_rows(file)), lambda: read_lines(file), lambda: read_json(file)):
        with contextlib.suppress(ScoringError):
            read()


def test_a_field_may_hold_a_picture(tmp_path):
    picture = "A" * 3_000_000
    (row,) = read_rows(write(tmp_path, "a.tsv", f"index\timage\n1\t{picture}\n"))
    assert row.text("image") == picture
    assert csv.field_size_limit() < len(picture), "other readers of this process keep their limit"


def test_a_spreadsheet(tmp_path):
    sheet = Workbook()
    sheet.active.append(["index", "prediction", None])
    sheet.active.append([252, "A\nbecause"])
    sheet.active.append([])
    sheet.active.append([1000252, None, None])
    sheet.active.append([7, "=5"])
    sheet.save(tmp_path / "a.xlsx")
    first, empty, formula = read_rows(tmp_path / "a.xlsx")
    assert (first.text("index"), first.answer("prediction"), first.where) == ("252", "A\nbecause", f"{tmp_path}/a.xlsx, row 2")
    assert (empty.text("index"), empty.answer("prediction")) == ("1000252", "")
    with pytest.raises(ScoringError, match=r"row 5: 'prediction' is a formula \(=5\)"):
        formula.answer("prediction")


def test_a_spreadsheet_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    sheet = Workbook()
    sheet.active.append(["index"])
    sheet.active.append([7])
    sheet.save(tmp_path / "a.xlsx")
    with zipfile.ZipFile(tmp_path / "a.xlsx", "a", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("xl/big.xml", bytes(2**20))
    assert len(list(read_rows(tmp_path / "a.xlsx"))) == 1
    monkeypatch.setattr(tables, "_LARGEST_SHEET", 2**20)
    assert (tmp_path / "a.xlsx").stat().st_size < 2**14
    with pytest.raises(ScoringError, match=r"a\.xlsx unpacks to 1,0\d\d,\d{3} bytes; at most 1,048,576 are read"):
        list(read_rows(tmp_path / "a.xlsx"))


def test_shards_may_have_a_digest_behind_their_number(tmp_path):
    """As the hub wrote them in 2023."""
    for number, ids in enumerate([["a"], ["b"], ["c"]]):
        name = f"test-{number:05d}-of-00003-{f'{number:x}' * 16}.parquet"
        parquet.write_table(pyarrow.table({"id": ids}), tmp_path / name)
    assert [row.text("id") for row in read_rows(found(tmp_path, "test-*.parquet"))] == ["a", "b", "c"]
    assert [row.text("id") for row in read_rows(tmp_path / name)] == ["a", "b", "c"]
    (tmp_path / f"test-00001-of-00003-{'1' * 16}.parquet").unlink()
    with pytest.raises(ScoringError, match=r"one of 3 shards, and test-00001-of-00003\.parquet is not"):
        list(read_rows(tmp_path / name))


def test_shards_of_a_split_are_one_table(tmp_path):
    (tmp_path / "data").mkdir()
    for number, ids in enumerate([["a", "b"], ["c"]]):
        table = pyarrow.table({"id": ids, "size": [float("nan")] * len(ids)})
        parquet.write_table(table, tmp_path / f"data/test-{number:05d}-of-00002.parquet")
    parquet.write_table(pyarrow.table({"id": ["z"]}), tmp_path / "data/validation-00000-of-00001.parquet")
    file = found(tmp_path, "absent.json", "test-*.parquet")
    assert [row.text("id") for row in read_rows(file)] == ["a", "b", "c"]
    assert [row.first("size") for row in read_rows(file)] == [None] * 3
    assert [row.where.rsplit("/", 1)[1] for row in read_rows(file)][1:] == [
        "test-00000-of-00002.parquet, row 2",
        "test-00001-of-00002.parquet, row 1",
    ]
    with pytest.raises(ScoringError, match=r"has 2 files of the form .*test-00000-of-00002.parquet, .*validation"):
        list(read_rows(tmp_path / "data"))
    (tmp_path / "data/test-00000-of-00002.parquet").unlink()
    with pytest.raises(ScoringError, match=r"one of 2 shards, and test-00000-of-00002.parquet is not"):
        list(read_rows(tmp_path / "data/test-00001-of-00002.parquet"))


def test_the_file_that_is_meant_is_found(tmp_path):
    deep = tmp_path / "data" / "deep"
    deep.mkdir(parents=True)
    (tmp_path / ".cache").mkdir()
    for file in (tmp_path / "b.tsv", deep / "a.tsv", deep / "SEED-Bench.json", tmp_path / ".cache/c.json"):
        file.write_text("x")
    assert found(tmp_path, "SEED-Bench*.json", "*.tsv") == deep / "SEED-Bench.json"
    assert found(tmp_path, "*.tsv") == tmp_path / "b.tsv"
    assert found(deep / "a.tsv", "*.json") == deep / "a.tsv"
    with pytest.raises(ScoringError, match=r"has no file \*\.xlsx or \*\.csv, in it or below it; it holds .*b\.tsv"):
        found(tmp_path, "*.xlsx", "*.csv")
    (tmp_path / "c.tsv").write_text("x")
    with pytest.raises(ScoringError, match=r"has 2 files of the form \*\.tsv: b\.tsv, c\.tsv; give one of them"):
        found(tmp_path, "*.tsv")
    with pytest.raises(ScoringError, match="neither a file nor a folder"):
        found(tmp_path / "absent", "*.tsv")


def test_lines_keep_all_but_their_ends(tmp_path):
    file = write(tmp_path, "OCR.txt", "\ufeffa.jpg\tIs it\u2028so?\tYes\tyes, \x0b it\r\n\nb\t\n")
    assert read_lines(file) == ["a.jpg\tIs it\u2028so?\tYes\tyes, \x0b it", "", "b\t"]


def test_records_inside_of_a_value(tmp_path):
    value = read_json(write(tmp_path, "a.json", '{"results": [{"id": 1}, 5], "mean": NaN}'))
    assert value["mean"] is None
    with pytest.raises(ScoringError, match=r"a\.json, 'results', entry 2: it is a int"):
        rows_of(value["results"], f"{tmp_path}/a.json, 'results'")
    with pytest.raises(ScoringError, match="it is an object, no list"):
        rows_of(value, "a.json")
    with pytest.raises(ScoringError, match=r"line 2: something follows the JSON value"):
        read_json(write(tmp_path, "b.json", '{"id": 1}\n{"id": 2}'))
