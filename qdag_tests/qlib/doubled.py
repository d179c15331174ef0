"""Operators as users of Qlib register them."""

from typing import Any

from qlib.data.ops import ElemOperator


class Doubled(ElemOperator):  # type: ignore[misc]
    """Twice a series."""

    def _load_internal(self, instrument: str, start_index: int, end_index: int, *args: Any) -> Any:
        return 2 * self.feature.load(instrument, start_index, end_index, *args)


class Mean(Doubled):
    """The name of another of Qlib's."""
