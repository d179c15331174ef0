"""The list of assets for people."""

from pathlib import Path

from qdag.assets.chain import chain
from qdag.settings import Settings
from qdag.views.assets import HEADING, asset_lines, assets_markdown


def test_the_documented_list_is_the_code_s() -> None:
    written = (Path(__file__).parents[2] / "docs" / "assets.md").read_text("utf-8")
    assert written == assets_markdown(Settings()), "write it anew: qdag assets --markdown > docs/assets.md"


def test_every_asset_has_a_line_in_the_order_in_which_they_are_made() -> None:
    settings = Settings(custom_factors={"x": "$close"})
    lines = asset_lines(settings)
    assert [line[0] for line in lines] == list(chain(settings).names)
    assert all(len(line) == len(HEADING) and line[-1] for line in lines)
    made: set[str] = set()
    for name, *_, upstream, _, _ in lines:
        assert set(upstream.split(", ")) <= made | {"its source"}
        made.add(name)
