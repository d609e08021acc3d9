"""pargo data list: what can be prepared, for a person and for a program."""

import json

import pytest

from pargo_cli.data_sets import DATA_SETS
from pargo_mllm.cli import main
from pargo_mllm.data.preparation.data_set import COARSE, DETAILED, INSTRUCTIONS
from pargo_mllm.data.preparation.sets import find

HONEYBEE = {"vqav2": 0.103, "gqa": 0.103, "ocrvqa": 0.051, "vsr": 0.026, "scienceqa": 0.051, "aokvqa": 0.103}
HONEYBEE |= {"refcoco": 0.103, "refcoco+": 0.103, "refcocog": 0.103, "vg": 0.051, "llava150k": 0.103}


def test_every_set_tells_what_a_user_must_know():
    for name in DATA_SETS:
        told = find(name)
        assert told.name == name
        assert told.kind in (COARSE, DETAILED, INSTRUCTIONS)
        assert told.weight > 0
        assert told.needs
        assert all((told.title, told.about, told.licence, told.size, *told.splits))
        assert all(need.name and need.what and need.home for need in told.needs)
    assert {name: find(name).weight for name in HONEYBEE} == HONEYBEE


def test_the_table_and_a_set_by_name(capsys):
    assert main(["data", "list"]) == 0
    table = capsys.readouterr().out
    for name in DATA_SETS:
        told = find(name)
        for text in (f" {name} ", told.size, told.licence, f"{told.weight:.3g}", *(need.name for need in told.needs)):
            assert text in table
    assert main(["data", "list", "vg", "vsr"]) == 0
    said = capsys.readouterr().out
    assert "VG_100K_2/: photographs" in said
    assert "random, zeroshot" in said
    assert "vqav2" not in said
    with pytest.raises(SystemExit, match="2"):
        main(["data", "list", "vgg"])


def test_json_is_all_that_is_printed(capsys):
    assert main(["data", "list", "gqa", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["name"] == "gqa"
    assert [need["name"] for need in told["needs"]] == ["train_balanced_questions.json", "images/"]
    assert told["weight"] == 0.103
