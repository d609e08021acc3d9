"""What options of several commands have in common."""

import argparse

import pytest

from pargo_cli import align, caption, data, filter, validate


def parsers():
    """Each command and action of those that read and write data, by name."""
    top = argparse.ArgumentParser()
    commands = top.add_subparsers()
    for module in (align, caption, data, filter, validate):
        module.add_parser(commands)
    found = dict(commands.choices)
    actions = next(action for action in found.pop("data")._actions if isinstance(action, argparse._SubParsersAction))
    return found | actions.choices


NAMES = ("DIR", "FILE", "FILE.yaml", "DATA", "IMAGES", "PREPARED")
PLACES = [
    (command, action.dest)
    for command, parser in parsers().items()
    for action in parser._actions
    # a model, and what is evaluated, may be more than a path
    if action.metavar in NAMES and action.dest not in ("model", "against")
]


@pytest.mark.parametrize(("command", "option"), PLACES)
@pytest.mark.parametrize("given", ["", " "])
def test_a_variable_that_is_not_set_is_not_the_folder_one_is_in(command, option, given, capsys):
    parser = parsers()[command]
    action = next(action for action in parser._actions if action.dest == option)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([*action.option_strings[:1], given])
    assert ended.value.code == 2
    assert "is empty" in capsys.readouterr().err


def test_there_are_such_options():
    assert {("prepare", "src"), ("prepare", "out"), ("validate", "data"), ("mixture", "prepared")} <= set(PLACES)
