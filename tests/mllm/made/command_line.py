"""The command line, run in this process."""

from dataclasses import dataclass

from pargo_cli.main import main


@dataclass(frozen=True)
class Ended:
    status: int
    printed: str
    said: str  # on standard error


def ended(capsys, *words):
    """What a command ends with."""
    capsys.readouterr()
    status = main([str(word) for word in words])
    printed = capsys.readouterr()
    return Ended(status, printed.out, printed.err)
