"""What every command prints with: tables, frames and bars that lose no text and read none as markup."""

import io

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rich.progress import MofNCompleteColumn

from qdag.cli import console
from qdag.cli.console import names_in, progress, screen, show_frame, show_table, universe_name, universe_names
from qdag.errors import SettingsError, UnknownNameError
from qdag.settings import Settings


def test_frames_fit_the_terminal_and_keep_their_digits(capsys):
    def printed(shown: pd.DataFrame, **options: bool) -> list[str]:
        show_frame(screen(60), shown, **options)
        return capsys.readouterr().out.splitlines()

    frame = pd.DataFrame(
        {
            "name": ["[bold]a", "b"],
            "volume": [1.25e8, np.nan],
            "small": np.array([3e-7, 0.0], np.float32),
            "n": [1234, 5],
            **{f"column{i}": [0.5, -0.25] for i in range(20)},
        }
    )
    lines = printed(frame)
    assert max(map(len, lines)) <= 60
    assert lines[1].split()[:4] == ["[bold]a", "125,000,000", "3.0e-07", "1,234"]
    assert lines[2].split()[:3] == ["b", "0.0000", "5"]
    assert lines[-1] == "and 18 more columns, from column2 to column19"
    assert all(f"column{i}" in "".join(printed(frame, every_column=True)) for i in (0, 19))
    assert printed(frame.head(0))[-2] == "no rows"


def test_tables_show_every_text_as_it_is(capsys):
    rows = [("[bold]a", 1), ("b" * 70, 1234)]
    show_table(screen(60), ["name", "count"], rows, right=["count"], title="what")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [["what"], ["name", "count"], ["[bold]a", "1"]]
    assert len(lines[1]) == len(lines[2]) == 60
    assert "".join(lines[3:]).count("b") == 70


def test_a_bar_for_each_thing_that_is_reported():
    shown = io.StringIO()
    with progress(Console(file=shown, width=80, force_terminal=True), 10, MofNCompleteColumn()) as report:
        report("copying", 0, 4)
        report("copying", 4, 4)
        report("reading", 1, 2)
    copying, reading = [line for line in shown.getvalue().splitlines() if "━" in line][-2:]
    assert "copying" in copying
    assert "4/4" in copying
    assert "reading" in reading
    assert "1/2" in reading


def test_a_pipe_is_told_of_each_thing_when_it_is_done(monkeypatch):
    shown = io.StringIO()

    def lines() -> list[list[str]]:
        return [line.split() for line in shown.getvalue().splitlines()]

    with progress(Console(file=shown, width=80), 10, MofNCompleteColumn()) as report:
        report("copying", 0, 4)
        report("copying", 3, 4)
        assert lines() == []
        report("copying", 4, 4)
        report("copying", 4, 4)
        assert lines() == [["copying", "4/4"]]
        report("copying", 0, 4)
        report("copying", 4, 4)
        report("reading", 1, 9)
        assert lines() == [["copying", "4/4"]] * 2
        monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
        report("reading", 2, 9)
        report("reading", 9, 9)
        report("writing", 0, 1)
        monkeypatch.undo()
        report("writing", 0, 1)
    told = [["reading", "2/9"], ["reading", "9/9"], ["writing", "0/1"], ["writing", "0/1"]]
    assert lines() == [["copying", "4/4"]] * 2 + told


def test_a_universe_is_named_unless_there_is_one(small_settings):
    assert universe_name(small_settings, None) == "toy"
    with pytest.raises(UnknownNameError, match="did you mean 'toy'"):
        universe_name(small_settings, "tyo")
    both = Settings(universes={name: small_settings.universe("toy") for name in ("a", "b")})
    with pytest.raises(SettingsError, match="name one with --universe: a, b"):
        universe_name(both, None)
    assert universe_names(both, None) == ["a", "b"]
    assert universe_names(both, "b") == ["b"]


def test_an_option_may_hold_several_names():
    assert names_in(None) is None
    assert names_in("a,b") == ["a", "b"]
