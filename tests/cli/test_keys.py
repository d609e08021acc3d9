"""The keys of a recipe as ``pargo train --help`` tells them: none is missing, and what is told is what is taken."""

import re
from dataclasses import fields

import pytest
import yaml

from pargo_cli.keys import PROJECTOR_TYPES, meanings
from pargo_cli.main import main
from pargo_mllm.configuration import PROJECTORS
from pargo_mllm.miniature.sizes import SCALES
from pargo_mllm.training.recipes import Recipe, RecipeError, load_recipe

KEYS = {field.name for field in fields(Recipe)}
CHOICES = ("attention", "projector_attention", "template", "engine", "schedule")


def told():
    """Name of each key, what stands for its value, and what is said of it."""
    return {name: (means.value, means.text, default) for name, (means, default) in meanings().items()}


def test_help_tells_every_key(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert set(told()) == KEYS
    for name, (value, text, default) in told().items():
        assert f"--{name.replace('_', '-')} {value}" in said
        assert f"{text} (default: {default})" in said if default else text in said
        assert len(text) > 8


def test_the_defaults_that_are_told_are_those_of_a_recipe_that_says_nothing(tmp_path):
    (tmp_path / "mine.yaml").write_text("stage: 2\nsteps: 3\n")
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    for name, (_, _, default) in told().items():
        if name not in ("stage", "steps"):
            value = getattr(recipe, name)
            read = yaml.safe_load(default) if default else None
            assert value == (float(read) if isinstance(value, float) else read), name


@pytest.mark.parametrize("key", CHOICES)
def test_the_words_that_are_told_are_those_that_are_taken(key):
    words = told()[key][0].split("|")
    for word in words:
        assert getattr(load_recipe("mini-stage1", {key: word}), key) == word
    with pytest.raises(RecipeError, match="no_such") as error:
        load_recipe("mini-stage1", {key: "no_such"})
    known = re.findall(r"\w+", re.split(r"one of|; use", str(error.value))[1])
    assert set(known) - {"or"} == set(words)


def test_tables_that_may_grow_are_told_whole():
    assert tuple(PROJECTORS) == PROJECTOR_TYPES
    assert told()["miniature"][0].split("|") == list(SCALES)
