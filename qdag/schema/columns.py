"""Columns, dtypes, units and keys of every table. Quality rules are data derived from these; no I/O belongs here."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

DTYPES = ("string", "date32", "float32", "float64", "int32", "int64")


@dataclass(frozen=True)
class Column:
    """One column of a table: its Arrow type by name, unit and meaning."""

    name: str
    dtype: str
    description: str
    unit: str = ""
    nullable: bool = True


@dataclass(frozen=True)
class TableSpec:
    """A Delta table: ``keys`` identify a row; ``universe`` and ``month`` partition the files.

    ``month`` ("YYYY-MM" of ``date``) is derived by the store on writing and hidden on reading. A ``yearly`` table,
    which has few rows a session, keeps those of a year in the partition of January: a long history is few files.
    ``remade``: how rows of a bookkeeping table that are lost come back by themselves, as an end of a sentence; "" for
    tables whose rows a stage must write again.
    """

    name: str
    keys: tuple[str, ...]
    columns: tuple[Column, ...]
    description: str
    yearly: bool = False
    remade: str = ""

    def __post_init__(self) -> None:
        names = [c.name for c in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"table {self.name} declares a column twice")
        if missing := [k for k in self.keys if k not in names]:
            raise ValueError(f"table {self.name} declares keys {missing} that are no columns")
        if null := [c.name for c in self.columns if c.name in self.keys and c.nullable]:
            raise ValueError(f"table {self.name} declares keys {null} that may be null")
        if bad := [c.name for c in self.columns if c.dtype not in DTYPES]:
            raise ValueError(f"table {self.name} has columns of unknown dtype: {bad}")

    def arrow(self) -> "pa.Schema":
        """The Arrow schema, without the ``month`` partition column."""
        import pyarrow as pa

        types = {name: getattr(pa, name)() for name in DTYPES}
        return pa.schema([pa.field(c.name, types[c.dtype], nullable=c.nullable) for c in self.columns])

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the columns that are not keys."""
        return tuple(c.name for c in self.columns if c.name not in self.keys)


UNIVERSE = Column("universe", "string", "universe of the settings that the row belongs to", nullable=False)
DATE = Column("date", "date32", "trading session", nullable=False)
INSTRUMENT = Column("instrument", "string", "listed security in Qlib's spelling", nullable=False)
ROW = (DATE.name, INSTRUMENT.name)
"""What identifies a row of an instrument within a universe."""
