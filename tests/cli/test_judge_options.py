"""What is written down of a command that asks a judge."""

import argparse

import pytest

from pargo_cli.judge_options import without_secrets
from pargo_cli.main import build_parser
from pargo_cli.values import at_least_zero, positive


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("https://host/v1?api-key=SECRET&v=2", "https://host/v1"),
        ("https://host/v1#SECRET", "https://host/v1"),
        ("host/v1?key=SECRET", "host/v1"),
        ("http://me:SECRET@host/v1", "…"),
        ("http://me:SEC?RET@host/v1", "…"),
        ("http://[SECRET@", "…"),
    ],
)
def test_a_judges_address_is_written_without_secrets(address, written):
    assert without_secrets(["score", "p.json", "--judge-url", address, "--json"]) == [
        *("score", "p.json", "--judge-url", written, "--json")
    ]
    assert without_secrets([f"--judge-url={address}"]) == [f"--judge-url={written}"]


@pytest.mark.parametrize("words", [["eval", "m", "--benchmark", "mme"], ["score", "p", "--benchmark", "mme"]])
def test_the_address_has_no_other_spelling(words, capsys):
    assert build_parser().parse_args([*words, "--judge-url", "http://host"]).judge_url == "http://host"
    with pytest.raises(SystemExit):
        build_parser().parse_args([*words, "--judge-u", "http://host"])
    assert "unrecognized arguments: --judge-u" in capsys.readouterr().err


def test_numbers_of_options():
    assert (positive("1"), at_least_zero("0"), positive(str(2**31 - 1))) == (1, 0, 2**31 - 1)
    for kind, words in ((positive, ("0", "-1", "x", "", "1.5", str(2**31))), (at_least_zero, ("-1", "x", ""))):
        for word in words:
            with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number from"):
                kind(word)
