"""Reading the settings: a TOML file, ``QDAG_*`` variables over it, and what does not fit said in one sentence each."""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from qdag.errors import SettingsError
from qdag.settings.base import local_path
from qdag.settings.explain import explain, submodels
from qdag.settings.settings import Settings

CONFIG_VARIABLE = "QDAG_CONFIG"
"""The variable that names the settings file."""
POSTGRES_VARIABLE = "QDAG_POSTGRES_URL"
"""The variable with the address of Dagster's database, a secret."""
_NOT_SETTINGS = {CONFIG_VARIABLE, POSTGRES_VARIABLE}


def load_settings(path: Path | str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Parameters
    ----------
    path : file to read; by default ``$QDAG_CONFIG``, else ``./qdag.toml`` where it exists, else none
    environ : variables, by default the process's. ``QDAG_TRAINING__HORIZON=5`` sets ``training.horizon``;
        a value that begins with ``[`` or ``{`` is read as JSON.

    Raises
    ------
    SettingsError
        A file that cannot be read, an unknown key (the nearest valid one is named) or a value that does not fit.
    """
    environ = os.environ if environ is None else environ
    named = path or environ.get(CONFIG_VARIABLE)
    file = Path(named) if named else Path("qdag.toml")
    data: dict[str, Any] = {}
    if named or file.exists():
        try:
            data = tomllib.loads(file.read_text("utf-8"))
        except FileNotFoundError:
            wrong = "correct --config" if path else f"correct or unset {CONFIG_VARIABLE}"
            raise SettingsError(f"settings file {str(file)!r} does not exist; create it, or {wrong}") from None
        except (OSError, ValueError) as error:
            raise SettingsError(f"settings file {str(file)!r} cannot be read: {_with_line(error, file)}") from error
        except RecursionError:
            raise SettingsError(f"settings file {str(file)!r} cannot be read: it is nested too deeply") from None
        _resolve_paths(data, Settings, file.absolute().parent)
    for variable, value in environ.items():
        if variable.startswith("QDAG_") and variable not in _NOT_SETTINGS:
            _set(data, variable, value)
    return settings_from(data)


def settings_from(data: Mapping[str, Any]) -> Settings:
    """Settings of plain tables, as TOML gives them; SettingsError where they do not fit."""
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        # a default that is made from other settings is not made where these are wrong, which is told already
        told = (e for e in error.errors() if e["type"] != "default_factory_not_called")
        raise SettingsError("; ".join(explain(e, Settings) for e in told)) from error


def _with_line(error: Exception, file: Path) -> str:
    """An error's text; where TOML ends too early, with the line that it ends on."""
    text = str(error)
    if "at end of document" in text:
        return text.replace("at end of document", f"at line {len(file.read_text('utf-8').splitlines())}, the last")
    return text


def _resolve_paths(table: dict[str, Any], model: type[BaseModel], folder: Path) -> None:
    """Make the relative paths of a table relative to the folder of its file, wherever the models have a path.

    Where a table may be of several models, the paths of any: its kind may come from a variable. Absolute paths stay.
    """
    for key, field in model.model_fields.items():
        value: Any = table.get(key)
        if isinstance(value, str) and _is_path(field.annotation):
            table[key] = _below(folder, value)
        named = isinstance(value, dict) and get_origin(field.annotation) is dict
        tables = value.values() if named else value if isinstance(value, list) else [value]
        for inner in tables:
            for below in submodels(field.annotation) if isinstance(inner, dict) else ():
                _resolve_paths(inner, below, folder)


def _is_path(annotation: Any) -> bool:
    return annotation is Path or any(map(_is_path, get_args(annotation)))


def _below(folder: Path, text: str) -> str:
    """A path relative to a folder; what is no path stays, to be refused with what was given."""
    try:
        return str(folder / Path(local_path(text)).expanduser())
    except (ValueError, RuntimeError):
        return text


def _set(data: dict[str, Any], variable: str, value: str) -> None:
    """Put a variable's value where its name says, over what the file has."""
    *parents, leaf = variable.removeprefix("QDAG_").lower().split("__")
    for key in parents:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise SettingsError(f"variable {variable} nests below {key!r}, which is a plain value")
    if value.lstrip()[:1] in ("[", "{"):
        try:
            data[leaf] = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"variable {variable} is not valid JSON: {error}") from error
    else:
        data[leaf] = value
