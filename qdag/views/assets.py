"""The assets of some settings as a table for people: what each is, what it is made from, where it lies."""

from qdag.assets.chain import chain
from qdag.settings import Settings
from qdag.text import markdown_table

HEADING = ("asset", "group", "partitions", "made from", "rows are identified by", "what it is")
"""What is told of every asset, in this order."""


def asset_lines(settings: Settings) -> list[tuple[str, ...]]:
    """A line for every asset, in the order in which they are made."""
    lines: list[tuple[str, ...]] = []
    for asset in chain(settings):
        table = asset.table(settings)
        lines.append(
            (
                asset.name,
                asset.group,
                f"{asset.period}s",
                ", ".join(asset.upstream(settings)) or "its source",
                ", ".join(table.keys) if table else "",
                table.description if table else asset.description,
            )
        )
    return lines


def assets_markdown(settings: Settings) -> str:
    """The assets as Markdown, as docs/assets.md has them."""
    rows = [(f"`{name}`", *rest) for name, *rest in asset_lines(settings)]
    return (
        "# Assets\n\nWritten by `qdag assets --markdown`, in the order in which they are made. Every asset is "
        "partitioned by universe besides; how one is added is told in [architecture](architecture.md).\n\n"
    ) + markdown_table(HEADING, rows, cell=str)
