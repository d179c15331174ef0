"""What is meant where a feature is asked for: a set, a stored column, or an expression to be computed."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from qdag.errors import MissingDataError, QdagError, UnknownNameError, unknown
from qdag.features.catalogue import feature_sets
from qdag.schema import ROW
from qdag.settings import Settings

Names = str | Sequence[str] | Mapping[str, str]
"""One name, several, or names by the columns that they become."""
_PLAIN = re.compile(r"\w+(\.\w+)?")


@dataclass
class Asked:
    """What was asked for.

    Attributes
    ----------
    columns : columns of the result, in the order asked for
    stored : by table the stored columns and what each is called in the result
    expressions : expressions to be computed, by what each is called in the result
    """

    columns: list[str] = field(default_factory=list)
    stored: dict[str, dict[str, str]] = field(default_factory=dict)
    expressions: dict[str, str] = field(default_factory=dict)


def asked_for(settings: Settings, names: Names, columns_of: Callable[[str], Sequence[str] | None]) -> Asked:
    """Find out what is meant by names of features.

    A set gives all of its columns under their names, ``table.column`` where two sets that were asked for share one;
    anything else is one column, called as it was asked for.

    Parameters
    ----------
    names : of sets, columns (``alpha158.KMID``, or ``KMID`` where one set has it), or expressions
    columns_of : the stored feature columns of a table; None where it is not stored

    Raises
    ------
    UnknownNameError
        A name that nothing has, or that several sets have.
    MissingDataError
        A set or a column that is declared, but not stored yet.
    QdagError
        No name at all, two columns of one name, or a name that is a key of the tables.
    """
    given = {names: names} if isinstance(names, str) else names
    pairs = list(given.items()) if isinstance(given, Mapping) else [(name, name) for name in given]
    if not pairs:
        raise QdagError("no feature is named; name a set, a column or an expression")
    finder = _Finder(settings, columns_of)
    whole = [name for _, name in pairs if name in finder.sets]
    shared = Counter(column for name in whole for column in finder.columns(name))
    asked = Asked()
    for called, name in pairs:
        if name in finder.sets:
            if called != name:
                raise QdagError(f"{name!r} is a set of many columns, which cannot all be called {called!r}; list it")
            for column in finder.columns(name):
                _add(asked, column if shared[column] == 1 else f"{name}.{column}", (name, column))
        else:
            _add(asked, called, finder.column(name) or name)
    return asked


def _add(asked: Asked, called: str, what: tuple[str, str] | str) -> None:
    if called in asked.columns:
        raise QdagError(f"two columns would be called {called!r}; name them, as in {{'mine': {called!r}}}")
    if called in ROW:
        raise QdagError(f"a column cannot be called {called!r}, which identifies a row; choose another name")
    if isinstance(what, str):
        asked.expressions[called] = what
    else:
        table, column = what
        chosen = asked.stored.setdefault(table, {})
        if column in chosen:
            raise QdagError(f"column {column!r} of {table} is asked for twice; name it once")
        chosen[column] = called
    asked.columns.append(called)


class _Finder:
    """Sets and their columns: those that the settings choose, and those that are stored besides."""

    def __init__(self, settings: Settings, columns_of: Callable[[str], Sequence[str] | None]):
        self.sets = {one.name: one.columns for one in settings.feature_sets()}
        self.stored = columns_of
        for name, one in feature_sets().items():
            if name not in self.sets and columns_of(name) is not None:
                self.sets[name] = one.columns

    def columns(self, name: str) -> Sequence[str]:
        """The stored columns of a set."""
        stored = self.stored(name)
        if stored is None:
            raise MissingDataError(f"feature table {name!r} holds nothing yet; materialize {name} first")
        return stored

    def column(self, name: str) -> tuple[str, str] | None:
        """Table and column of a name; None of what is no name but an expression."""
        if not _PLAIN.fullmatch(name):
            return None
        table, dot, column = name.partition(".")
        if dot:
            if table not in self.sets:
                raise unknown("feature set", table, self.sets)
            return self._stored(table, column)
        having = [table for table, columns in self.sets.items() if name in columns]
        if len(having) > 1:
            raise UnknownNameError(
                f"column {name!r} is in several sets; name one of {', '.join(f'{t}.{name}' for t in having)}"
            )
        if not having:
            known = {*self.sets, *(column for columns in self.sets.values() for column in columns)}
            raise unknown("feature set or column", name, known)
        return self._stored(having[0], name)

    def _stored(self, table: str, column: str) -> tuple[str, str]:
        stored = self.columns(table)
        if column in stored:
            return table, column
        if column in self.sets[table]:
            raise MissingDataError(f"table {table!r} does not hold {column!r} yet; materialize {table} again")
        raise unknown(f"column of {table}", column, stored)
