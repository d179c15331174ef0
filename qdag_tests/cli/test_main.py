"""The commands by name: each says what it is for, and what it asks for is refused in a sentence."""

import pytest
import typer
from typer.testing import CliRunner

from qdag.cli import app, main
from qdag.cli.main import ALERTS, COMMANDS, DATA


def every() -> list[tuple[str, ...]]:
    names = [(name,) for name in COMMANDS]
    return names + [("alerts", name) for name in ALERTS] + [("data", name) for name in DATA]


@pytest.mark.parametrize("words", every(), ids=" ".join)
def test_every_command_says_what_it_is_for(words: tuple[str, ...]) -> None:
    told = CliRunner(env={"COLUMNS": "120"}).invoke(app, [*words, "--help"])
    assert told.exit_code == 0
    usage, _, about = told.output.splitlines()[:3]
    assert usage.startswith(f"Usage: root {' '.join(words)} ")
    assert len(about) > 20
    assert about.startswith("  ")


def test_help_lists_the_commands_in_their_order() -> None:
    group = typer.main.get_command(app)
    assert list(group.commands) == [*COMMANDS, "alerts", "data"]


def test_what_is_refused_leaves_as_one_paragraph_and_code_2(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["qdag", "explain", "$clos"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert told.startswith("error: e1: unknown field '$clos'; did you mean '$close'")
