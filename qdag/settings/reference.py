"""The settings for people, read off their models: docs/settings.md, and the values in effect. Meanings stand there."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from qdag.errors import redact
from qdag.settings.explain import kind_of, submodels
from qdag.settings.settings import Settings

WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", date: "day"}
"""Types as people call them."""
NAME = "NAME"
"""What stands for a name of the user's own."""


def markdown() -> str:
    """Every setting with its values, default and meaning, as docs/settings.md has it."""
    lines = [
        "# Settings",
        "",
        "Written by `qdag settings --markdown`; `qdag settings` shows the values in effect. Settings are read from "
        "`qdag.toml` where `qdag` runs (or from the file of `--config` or `QDAG_CONFIG`); relative paths in it are "
        "relative to it. Every key can also be a variable, with `__` between tables: `QDAG_TRAINING__HORIZON=5`, lists "
        "and tables as JSON: `QDAG_HORIZONS='[1, 5]'`. A key that does not exist is an error that names the nearest.",
        "",
        f"`{NAME}` stands for a name of your own: lower case letters, digits and underscores.",
    ]
    for title, text, model in _sections("", Settings):
        lines += ["", f"## {title}", ""]
        lines += [" ".join(text.split()).replace("``", "`"), ""] if text else []
        rows = [(key, field) for key, field in model.model_fields.items() if key != "kind"]
        if not rows:
            lines[-1:] = []
            continue
        lines += ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
        for key, field in rows:
            cells = (f"`{key}`", values(field.annotation, field.metadata), _default(field), field.description or "")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def in_effect(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Every setting that has a value: key, value as TOML has it, and the meaning. Secrets are not shown."""
    yield from _walk("", settings)


def _walk(prefix: str, model: BaseModel) -> Iterator[tuple[str, str, str]]:
    for key, field in type(model).model_fields.items():
        value, name = getattr(model, key), f"{prefix}{key}"
        if isinstance(value, BaseModel):
            yield from _walk(f"{name}.", value)
        elif isinstance(value, Mapping) and any(isinstance(one, BaseModel) for one in value.values()):
            for part, one in value.items():
                yield from _walk(f"{name}.{part}.", one)
        elif isinstance(value, tuple) and any(isinstance(one, BaseModel) for one in value):
            for at, one in enumerate(value):
                yield from _walk(f"{name}[{at}].", one)
        elif value is not None and value != () and value != {}:
            yield name, shown(value), field.description or ""


def shown(value: Any) -> str:
    """A value as TOML has it, without the user and password of an address."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path | SecretStr):
        text = redact(str(value))
        return f"'{text}'" if "'" not in text else f'"{text}"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value)


def values(annotation: Any, bounds: Iterable[Any] = ()) -> str:
    """What values a setting takes, in words."""
    origin, inner = get_origin(annotation), [a for a in get_args(annotation) if a is not type(None)]
    if origin is Annotated:
        return values(inner[0], (*annotation.__metadata__, *bounds))
    if origin is Literal:
        return ", ".join(f"`{shown(one)}`" for one in inner)
    if submodels(annotation):
        return {tuple: "list of tables", dict: "tables by name"}.get(origin, "table") + ", see below"
    if origin is tuple:
        return f"list: {values(inner[0])}"
    if origin is dict:
        return f"table: {NAME} = {'value' if inner[1] is Any else values(inner[1])}"
    if inner:
        return " or ".join(dict.fromkeys(values(one, bounds) for one in inner))
    return WORDS.get(annotation, "text") + _between(bounds)


def _between(bounds: Iterable[Any]) -> str:
    words = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}
    found = {name: getattr(bound, name) for bound in _flat(bounds) for name in words if hasattr(bound, name)}
    told = [words[name].format(f"{found[name]:,.10g}") for name in words if found.get(name) is not None]
    return f" {' '.join(told)}" if told else ""


def _flat(bounds: Iterable[Any]) -> Iterator[Any]:
    for bound in bounds:
        yield from _flat(bound.metadata) if isinstance(bound, FieldInfo) else (bound,)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    if field.default_factory not in (None, dict):
        return "its meaning says"
    if isinstance(field.default, BaseModel):
        return "see below"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None or value in ((), {}) else f"`{shown(value)}`"


def _sections(prefix: str, model: type[BaseModel]) -> Iterator[tuple[str, str, type[BaseModel]]]:
    """Title, text and model of a table and of those below it, in order."""
    kind = kind_of(model)
    title = f"[{prefix.rstrip('.')}]" if prefix else "At the top of the file"
    yield (f"{title}, kind = '{kind}'" if kind else title), (model.__doc__ or "") if prefix else "", model
    for key, field in model.model_fields.items():
        for below in submodels(field.annotation):
            part = f"{key}.{NAME}" if get_origin(field.annotation) is dict else key
            yield from _sections(f"{prefix}{part}.", below)
