"""Planted faults are found where they are, and nowhere else; a file that is broken is validated as far as it goes."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pargo_mllm.data.corpus import CorpusError
from pargo_mllm.data.sources.llava import LlavaCorpus
from pargo_mllm.jobs import engine_of
from pargo_mllm.validation import json_structure
from pargo_mllm.validation.division import part_of
from pargo_mllm.validation.findings import KINDS
from pargo_mllm.validation.run import validate
from pargo_mllm.validation.settings import Settings
from tests.mllm.made.command_line import ended
from tests.mllm.made.damage import damage
from tests.mllm.made.faulty_set import clean_set, faulty_set

# found by what is not always looked at, in files alone, or in other forms of data
ELSEWHERE = {
    *("file_broken", "not_a_list", "lines_in_json", "list_in_lines", "trailing", "no_record", "line_broken"),
    *("byte_order_mark", "carriage_returns", "several_forms", "set_frame", "too_long", "not_encodable", "unusable"),
    *("duplicate_picture", "near_picture", "near_text", "leak", "leak_text", "leak_picture"),
    *("shard_broken", "entry_left_out", "extra_left_out"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    made = faulty_set(tmp_path_factory.mktemp("sets") / "faulty")
    made.write()
    return made


def found_in(file, asked=None, **part):
    """Every finding, and the report."""
    found = []
    report = validate(part_of(file, **part), asked or Settings(), engine_of("local", 1), found.append, None)
    return found, report


def test_every_planted_fault_is_found_there_and_nowhere_else(faulty):
    found, report = found_in(faulty.file)
    assert {(one.kind, one.number) for one in found} == faulty.planted
    # each once, but for pictures of one record that are all its own
    assert len(found) == len(faulty.planted)
    assert report.samples == len(faulty.records)
    assert set(KINDS) - {kind for kind, _ in faulty.planted} == ELSEWHERE
    content = faulty.file.read_bytes()
    rows = content[1:-2].split(b",\n")
    for one in found:
        if one.number is not None:
            assert content[one.byte :].startswith(rows[one.number])
            assert one.line == one.number + 1


UNREADABLE = {
    "image": ({"image": 5}, "image_type"),
    "both": ({"image": "a.jpg", "images": ["a.jpg"]}, "image_both"),
    "two forms": ({"messages": [{"role": "user", "content": "x"}]}, "unusable"),
    "a number said": ({"conversations": [{"from": "human", "value": 5}]}, "no_turns"),
    "not learned": (
        {"conversations": None, "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None}]},
        "no_turns",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_record_that_cannot_be_read_is_called_by_its_id(case, tmp_path):
    more, kind = UNREADABLE[case]
    record = {key: value for key, value in (one_record() | more | {"id": "known"}).items() if value is not None}
    (tmp_path / "list.json").write_text(json.dumps([record]))
    found, _ = found_in(tmp_path / "list.json")
    assert {(one.kind, one.id) for one in found if one.kind == kind} == {(kind, "known")}
    assert {one.id for one in found if one.number is not None} == {"known"}


def test_the_clean_set_is_clean_whatever_is_looked_at(tmp_path, capsys):
    made = clean_set(tmp_path / "clean")
    made.write()
    done = ended(capsys, "validate", made.file, "--decode", "--json", "--processes", 1)
    told = json.loads(done.printed)
    assert (done.status, told["findings"], told["complete"]) == (0, [], True)
    assert told["samples"] == told["usable"] == len(made.records)
    said = [turn["value"] for record in made.records for turn in record["conversations"] if turn["from"] == "gpt"]
    assert told["answers"] == len(said)
    assert told["mean_characters"] == pytest.approx(sum(map(len, said)) / len(said), abs=0.005)
    assert told["pictures"] == sum("image" in record for record in made.records)


def test_what_is_usable_is_what_training_uses(faulty, tmp_path):
    # invalid UTF-8 training refuses as a whole
    (number,) = (number for kind, number in faulty.planted if kind == "invalid_utf8")
    rows = faulty.file.read_bytes().split(b",\n")
    file = tmp_path / "list.json"
    file.write_bytes(b",\n".join(rows[:number] + rows[number + 1 :]))
    (tmp_path / "images").symlink_to(faulty.folder / "images")
    _, report = found_in(file)
    assert report.usable == len(LlavaCorpus(file, tmp_path / "images"))


def test_the_same_is_found_however_it_is_divided(faulty, monkeypatch):
    whole = found_in(faulty.file)
    monkeypatch.setattr(json_structure, "PIECE_BYTES", 5000)
    pieces = found_in(faulty.file)
    assert len(part_of(faulty.file).pieces) > 50
    assert pieces[0] == whole[0]
    assert pieces[1].told() == whole[1].told()


@pytest.mark.long
def test_the_same_is_found_with_any_number_of_processes(faulty, capsys, monkeypatch):
    monkeypatch.setattr(json_structure, "PIECE_BYTES", 20_000)
    told = [ended(capsys, "validate", faulty.file, "--json", "--decode", "--processes", number) for number in (1, 3)]
    assert told[0].status == told[1].status == 1
    assert told[0].printed == told[1].printed


def test_lines_are_read_as_a_list_is(faulty, tmp_path):
    file = tmp_path / "list.jsonl"
    # without what no line can hold
    file.write_bytes(
        faulty.file.read_bytes()[1:-2].replace(b",\n{", b"\n{").replace(b',\n["a"', b'\n["a"').replace(b",\nnull", b"\nnull")
    )
    (tmp_path / "images").symlink_to(faulty.folder / "images")
    found, report = found_in(file)
    assert report.samples == len(faulty.records)
    # absolute places differ: the folder is another
    assert {(one.kind, one.number) for one in found} == faulty.planted


def one_record(**more):
    return {"id": "a", "conversations": [{"from": "human", "value": "what"}, {"from": "gpt", "value": "a thing"}], **more}


ROW = json.dumps(one_record()).encode()
FILES = {
    "empty": ("x.json", b" \n", {"not_a_list"}, 0, 1),
    "an empty list": ("x.json", b"[ ]", {"no_record"}, 0, 1),
    "another value": ("x.json", b'"text"', {"not_a_list"}, 0, 1),
    "an object": ("x.json", b'{"data": [\n' + ROW + b"]}", {"not_a_list"}, 0, 1),
    "UTF-16": ("x.json", ROW.decode().encode("utf-16"), {"not_a_list"}, 0, 1),
    "compressed": ("x.json", b"\x1f\x8b\x08 more", {"not_a_list"}, 0, 1),
    "a mark of order": ("x.json", b"\xef\xbb\xbf[" + ROW + b"]", {"byte_order_mark"}, 1, 0),
    "a mark in front of lines": ("x.jsonl", b"\xef\xbb\xbf" + ROW, {"byte_order_mark"}, 1, 0),
    "line ends of Windows": ("x.json", b"[\r\n" + ROW + b"\r\n]", {"carriage_returns"}, 1, 0),
    "lines that end in .json": (
        "x.json",
        ROW + b"\n" + ROW.replace(b'"a"', b'"b"', 1).replace(b"thing", b"dog"),
        {"lines_in_json"},
        2,
        1,
    ),
    "a list that ends in .jsonl": ("x.jsonl", b"[" + ROW + b"]", {"list_in_lines"}, 1, 1),
    "something behind": ("x.json", b"[" + ROW + b"] []", {"trailing"}, 1, 1),
    "cut in an element": ("x.json", b"[" + ROW + b", " + ROW[:30], {"file_broken"}, 1, 1),
    "cut behind an element": ("x.json", b"[" + ROW, {"file_broken"}, 1, 1),
    "a comma too many": ("x.json", b"[" + ROW + b",]", {"file_broken"}, 1, 1),
    "a comma missing": ("x.json", b"[" + ROW + b" " + ROW + b"]", {"file_broken"}, 0, 1),
    "a quote missing": ("x.json", b"[" + ROW + b"," + ROW.replace(b'"id"', b'"id') + b"," + ROW + b"]", {"file_broken"}, 1, 1),
    "a bracket too many": ("x.json", b"[" + ROW + b"}, " + ROW + b"]", {"file_broken"}, 1, 1),
    "nested too deeply": ("x.json", b"[" + ROW + b"," + b"[" * 100_000 + b"]" * 100_000 + b"]", {"file_broken"}, 1, 1),
    "a huge number": ("x.json", b"[" + ROW.replace(b"{", b'{"n": ' + b"9" * 5000 + b",", 1) + b"]", {"file_broken"}, 0, 1),
    "a broken line": ("x.jsonl", ROW + b"\n{\n", {"line_broken"}, 2, 1),
    "no UTF-8 in a line": ("x.jsonl", ROW + b"\n" + ROW.replace(b"thing", b"\xff"), {"invalid_utf8"}, 2, 1),
}


@pytest.mark.parametrize("case", FILES)
def test_faults_of_files(case, tmp_path, capsys):
    name, content, kinds, samples, status = FILES[case]
    (tmp_path / name).write_bytes(content)
    done = ended(capsys, "validate", tmp_path / name, "--json", "--processes", 1)
    told = json.loads(done.printed)
    assert {one["kind"] for one in told["findings"]} == kinds
    assert (told["samples"], done.status) == (samples, status)


def test_a_file_that_breaks_off_is_validated_up_to_there(faulty, tmp_path, capsys):
    content = faulty.file.read_bytes()
    place = content.index(b'{"id": "001000"')
    file = tmp_path / "list.json"
    file.write_bytes(content[: place + 7] + content[place + 8 :])
    (tmp_path / "images").symlink_to(faulty.folder / "images")
    done = ended(capsys, "validate", file, "--json", "--processes", 1)
    told = json.loads(done.printed)
    broken = next(one for one in told["findings"] if one["kind"] == "file_broken")
    assert (broken["count"], broken["examples"][0]["byte"], broken["examples"][0]["number"]) == (1, place, 1000)
    assert (told["samples"], told["complete"], done.status) == (1000, False, 1)
    with pytest.raises(CorpusError):
        LlavaCorpus(file, tmp_path / "images")


def test_statuses(tmp_path, capsys):
    file = tmp_path / "x.json"

    def status(record, *more):
        file.write_text(json.dumps([record]))
        return ended(capsys, "validate", file, "--processes", 1, *more).status

    assert status(one_record()) == 0
    assert status(one_record(id=1)) == 0
    warning = {"id": "a", "conversatons": one_record()["conversations"]}
    assert status(warning) == 3
    assert status(warning, "--strict") == 1
    assert status(one_record(image=4)) == 1
    for refused in (
        ["--max-length", 3],
        ["--image-root", tmp_path / "none"],
        ["--model", tmp_path],
        ["--against", tmp_path / "none"],
    ):
        assert status(one_record(), *refused) == 2
    assert ended(capsys, "validate", "scenes").status == 2
    assert ended(capsys, "validate", tmp_path / "none.json").status == 2


def test_several_sets_are_validated_each_by_itself(tmp_path, capsys):
    for name, more in (("a", {}), ("b", {"image": 4})):
        (tmp_path / f"{name}.json").write_text(json.dumps([one_record(**more)]))
    done = ended(capsys, "validate", f"[{tmp_path}/a.json, {tmp_path}/b.json, scenes]", "--json", "--processes", 1)
    told = json.loads(done.printed)
    assert ([part["status"] for part in told["parts"]], told["status"], done.status) == ([0, 1], 1, 1)


def test_absolute_names_lead_where_they_may(tmp_path):
    made = clean_set(tmp_path / "clean", 6)
    for record in made.records:
        if "image" in record:
            record["image"] = str(tmp_path / "clean" / "images" / record["image"])
    made.write()
    assert {one.kind for one in found_in(made.file)[0]} == {"name_absolute"}
    assert found_in(made.file, image_root=tmp_path)[0] == []
    assert {one.kind for one in found_in(made.file, image_root=tmp_path / "clean" / "images")[0]} == set()


def test_every_finding_is_written_and_the_page_shows_no_stranger(faulty, tmp_path, capsys):
    faulty.records[21]["id"] = "<script>alert(1)</script>"
    faulty.records[21]["image"] = "<b>.jpg"
    file = tmp_path / "list.json"
    file.write_text(json.dumps(faulty.records[:200]))
    (tmp_path / "images").symlink_to(faulty.folder / "images")
    page, lines = tmp_path / "page.html", tmp_path / "findings.jsonl"
    done = ended(capsys, "validate", file, "--html", page, "--findings", lines, "--json", "--processes", 1)
    told = json.loads(done.printed)
    assert sum(one["count"] for one in told["findings"]) == len(lines.read_text().splitlines())
    html = page.read_text()
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html
    # of a link that leads out nothing is shown, of the box outside its picture is
    cards = {kind: html.split(KINDS[kind].what)[-1].split("<h3>")[0] for kind in ("link_leads_out", "box_outside")}
    assert "data:image/jpeg" not in cards["link_leads_out"]
    assert "data:image/jpeg" in cards["box_outside"]


def test_a_person_reads_counts_places_and_what_to_do(faulty, capsys):
    done = ended(capsys, "validate", faulty.file, "--processes", 1)
    assert "4 keys that look misspelt" not in done.printed
    assert re.search(r"3 keys that look misspelt, and mean nothing as they are: spell them", done.printed)
    assert "'imgae': did you mean 'image'?" in done.printed
    assert not any(ord(sign) < 32 and sign != "\n" for sign in done.printed)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    made = clean_set(tmp_path_factory.mktemp("small") / "set", 8)
    made.write()
    (made.folder / "lines.jsonl").write_text("\n".join(map(json.dumps, made.records)))
    return made.folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chance=st.randoms(use_true_random=False), name=st.sampled_from(["list.json", "lines.jsonl"]), in_picture=st.booleans())
def test_damaged_files_give_a_status_and_no_traceback(chance, name, in_picture, small, tmp_path, capsys):
    folder = tmp_path / "set"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(small, folder)
    pictures = sorted((folder / "images").iterdir())
    damage(chance.choice(pictures) if in_picture else folder / name, chance)
    done = ended(capsys, "validate", folder / name, "--json", "--processes", 1)
    assert done.status in (0, 1, 3), done.said
    json.loads(done.printed)
