"""A settings file of its own for each test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qdag.errors import SettingsError
from qdag.settings import Settings, load_settings


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Settings]:
    """Write text as ``qdag.toml`` and read it with the variables given."""

    def load(text: str = "", **environ: str) -> Settings:
        file = tmp_path / "qdag.toml"
        file.write_text(text)
        return load_settings(file, environ)

    return load


@pytest.fixture
def refused(load: Callable[..., Settings]) -> Callable[[str, str], str]:
    """The message of settings that do not fit: one that matches, and is not pydantic's own."""

    def refused(text: str, says: str) -> str:
        with pytest.raises(SettingsError, match=f"(?s){says}") as caught:
            load(text)
        assert "validation error" not in str(caught.value)
        return str(caught.value)

    return refused
