from pathlib import Path

import pytest

from qdag.errors import QdagError
from qdag.home import DAGSTER_YAML, prepare
from qdag.settings import Settings

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    # whatever prepare sets is undone
    for name in ("DAGSTER_HOME", "QDAG_HOME", "QDAG_CONFIG", "DAGSTER_EVENT_BATCH_SIZE", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)


def test_the_root_file_is_the_one_that_is_used(tmp_path):
    assert (ROOT / "dagster.yaml").samefile(DAGSTER_YAML)
    folder = prepare(Settings(home=tmp_path))
    assert (folder / "dagster.yaml").read_bytes() == DAGSTER_YAML.read_bytes()


def test_a_changed_file_in_the_home_is_refreshed(tmp_path):
    folder = prepare(Settings(home=tmp_path))
    (folder / "dagster.yaml").write_text("old: true")
    prepare(Settings(home=tmp_path))
    assert (folder / "dagster.yaml").read_bytes() == DAGSTER_YAML.read_bytes()


def test_children_see_the_same_home_and_settings(tmp_path, monkeypatch):
    import os

    file = tmp_path / "mine.toml"
    file.write_text("")
    monkeypatch.chdir(tmp_path)
    prepare(Settings(home=Path("here")), "mine.toml")
    assert os.environ["QDAG_HOME"] == str(tmp_path / "here")
    assert os.environ["DAGSTER_HOME"] == str(tmp_path / "here" / "dagster")
    assert os.environ["QDAG_CONFIG"] == str(file)


def test_a_home_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(QdagError, match="set QDAG_HOME elsewhere"):
        prepare(Settings(home=tmp_path / "file"))
