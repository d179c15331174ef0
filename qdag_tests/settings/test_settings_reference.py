"""docs/settings.md is what the models say, and nothing secret is shown."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from qdag.settings import Settings, load_settings, submodels
from qdag.settings.reference import in_effect, markdown, shown, values

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_current():
    assert (DOCS / "settings.md").read_text() == markdown(), (
        "write it anew: qdag settings --markdown > docs/settings.md"
    )


def _models(model: type[BaseModel]) -> set[type[BaseModel]]:
    below = {m for field in model.model_fields.values() for m in submodels(field.annotation)}
    return {model}.union(*map(_models, below))


@pytest.mark.parametrize("model", sorted(_models(Settings), key=lambda m: m.__name__), ids=lambda m: m.__name__)
def test_every_setting_says_what_it_means(model: type[BaseModel]):
    assert model.__doc__
    assert [key for key, field in model.model_fields.items() if key != "kind" and not field.description] == []


def test_every_key_is_on_the_page():
    told = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "settings.md").read_text(), re.MULTILINE))
    keys = {key for model in _models(Settings) for key in model.model_fields}
    assert keys - told == {"kind"}


def test_values_in_words():
    fields = load_settings(environ={}).training.model_fields
    assert values(fields["horizon"].annotation, fields["horizon"].metadata) == "whole number from 1 to 250"
    assert values(Settings.model_fields["horizons"].annotation) == "list: whole number from 1 to 250"
    assert values(Settings.model_fields["custom_factors"].annotation) == "table: NAME = text"
    assert shown({"a": (1, "x"), "b": True}) == "{a = [1, 'x'], b = true}"


def test_what_is_in_effect_hides_secrets(tmp_path):
    file = tmp_path / "qdag.toml"
    file.write_text(
        "[alerts]\nurls = ['json://user:hunter2@host/path']\n"
        "[mlflow]\ntracking_uri = 'http://user:hunter2@host:5000'\n"
        "[automation]\nbackup = 's3://key:hunter2@bucket/x'\n[custom_factors]\ngap = '$open/$close'\n"
    )
    found = {key: value for key, value, _ in in_effect(load_settings(file, {}))}
    assert "hunter2" not in str(found)
    assert found["mlflow.tracking_uri"] == "'http://***@host:5000'"
    assert found["custom_factors"] == "{gap = '$open/$close'}"
    assert found["universes.sample.source.kind"] == "'sample'"
    assert found["training.horizon"] == "1"
