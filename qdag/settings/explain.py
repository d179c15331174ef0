"""What pydantic finds wrong as a sentence that names the key, the value and the nearest valid key.

Everything is read off the models: the keys beside a wrong one are found by walking the annotations of the fields along
the error's location.
"""

from datetime import date
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from pydantic import BaseModel

from qdag.errors import nearest


def explain(error: Any, model: type[BaseModel]) -> str:
    """One error of pydantic as a sentence that names the key, the value and a remedy.

    Parameters
    ----------
    error : one of ``ValidationError.errors()``
    model : what was validated; the error's location begins in it
    """
    location, beside, models = _located(error["loc"], model)
    if error["type"] == "extra_forbidden":
        return f"unknown setting {location!r}{nearest(str(error['loc'][-1]), beside)}"
    if error["type"] == "missing":
        return f"setting {location!r} is missing; it has no default"
    if error["type"] == "union_tag_not_found":
        return f"setting {location!r} needs a kind: one of {', '.join(repr(kind_of(m)) for m in models)}"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    # text given below alerts may be a URL with its secrets, also where it is in the wrong place
    secret = error["loc"][:1] == ("alerts",) and isinstance(given, str)
    shown = f" (got {shortened(given)})" if isinstance(given, str | int | float | date) and not secret else ""
    return f"setting {location or 'file'}: {message}{shown}"


def shortened(value: object) -> str:
    """A value as Python writes it, a day as ISO has it; cut after 200 characters, with how many there are."""
    text = str(value) if isinstance(value, date) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... of {len(text)} characters"


def _located(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, list[str], list[type[BaseModel]]]:
    """The key that an error points at, as a person writes it; the valid keys beside it; the models that it may be."""
    shown, beside, at = "", list(model.model_fields), cast("Any", model)
    for part in location:
        models = [] if get_origin(at) in (dict, tuple) else submodels(at)
        if len(models) > 1:
            # the kind of a source or a pool, which is no key of its own
            at = next((m for m in models if kind_of(m) == part), Any)
        elif part != "[key]":
            shown += f"[{part}]" if isinstance(part, int) else f".{part}" if shown else part
            if models:
                beside = list(models[0].model_fields)
                at = models[0].model_fields[str(part)].annotation if part in beside else Any
            else:
                at = get_args(at)[-1 if get_origin(at) is dict else 0] if get_args(at) else Any
    return shown, beside, submodels(at)


def submodels(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's value may be, or that its items are."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        inner = inner[:1]
    return [m for one in inner for m in submodels(one)] if get_origin(annotation) is not Literal else []


def kind_of(model: type[BaseModel]) -> str | None:
    """The ``kind`` that stands for a model where a setting has several."""
    field = model.model_fields.get("kind")
    return field.default if field else None
