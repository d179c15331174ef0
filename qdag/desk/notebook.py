"""How objects of the desk show themselves in a notebook: small tables."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A drawn ``figure`` of matplotlib, which a notebook shows by itself."""

    figure: "Figure"

    def save(self, path: str | Path) -> None:
        """Write it to a file; the suffix says the format."""
        self.figure.savefig(path)

    def _repr_png_(self) -> bytes:
        image = BytesIO()
        self.figure.savefig(image, format="png")
        return image.getvalue()


def table_html(heading: str, rows: Iterable[tuple[str, Any]]) -> str:
    """A heading above lines of a name and a value."""
    lines = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows)
    return f"<b>{escape(heading)}</b><table>{lines}</table>"


def desk_html(heading: str, universes: "pd.DataFrame", versions: "pd.DataFrame") -> str:
    """What a data home holds: its universes, and the newest version of every table."""
    shown = versions.set_index("table")[["version", "time", "universe", "start", "end", "rows"]]
    frames = universes.T.to_html(notebook=True), shown.to_html(notebook=True, max_rows=40)
    return f"<b>{escape(heading)}</b>" + "".join(frames)
