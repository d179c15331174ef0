"""Any usual spelling of a symbol matched to a universe's own; what does not match is reported, never dropped."""

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType

from qdag.errors import unknown

_EXCHANGES = {"SH": "SH", "SS": "SH", "XSHG": "SH", "SZ": "SZ", "XSHE": "SZ", "BJ": "BJ", "BSE": "BJ", "XBEI": "BJ"}
_CODE_FIRST = re.compile(rf"(\d{{6}})[.]({'|'.join(_EXCHANGES)})")
_EXCHANGE_FIRST = re.compile(r"(SH|SZ|BJ)[.]?(\d{6})")
# the exchange of a bare China code: 920 and 4, 8 are Beijing's, 6 and 9 Shanghai's, 0, 2 and 3 Shenzhen's
_BARE = (("920", "BJ"), ("4", "BJ"), ("8", "BJ"), ("6", "SH"), ("9", "SH"), ("0", "SZ"), ("2", "SZ"), ("3", "SZ"))


def _china(symbol: str) -> str:
    """``600000.SH``, ``600000.XSHG``, ``sh.600000`` and ``600000`` are all ``SH600000``; others stay as they are."""
    text = symbol.upper()
    if match := _CODE_FIRST.fullmatch(text):
        return f"{_EXCHANGES[match[2]]}{match[1]}"
    if match := _EXCHANGE_FIRST.fullmatch(text):
        return f"{match[1]}{match[2]}"
    if re.fullmatch(r"\d{6}", text):
        return next((f"{exchange}{text}" for head, exchange in _BARE if text.startswith(head)), text)
    return text


def _america(symbol: str) -> str:
    """Classes of shares are written ``BRK.B``, ``BRK-B``, ``BRK/B``, ``BRK_B`` or ``BRK B``."""
    return re.sub(r"[-/_ ]", ".", symbol.upper())


class Symbols:
    """Finds the instruments of a universe by any usual spelling of a symbol in its region ("cn" or "us").

    ``given`` names the instruments of some symbols and comes first; one that is no instrument raises UnknownNameError.
    """

    def __init__(self, region: str, instruments: Collection[str], given: Mapping[str, str] = MappingProxyType({})):
        for name in given.values():
            if name not in instruments:
                raise unknown("instrument", name, instruments)
        self._given = given
        self._key = _china if region == "cn" else _america
        self._exact = frozenset(instruments)
        self._similar: dict[str, list[str]] = {}
        for name in sorted(instruments):
            self._similar.setdefault(self._key(name), []).append(name)

    def find(self, symbol: str) -> tuple[str, ...]:
        """Instruments that a symbol may mean: itself where it exists, else every other spelling of it that does."""
        if symbol in self._given:
            return (self._given[symbol],)
        return (symbol,) if symbol in self._exact else tuple(self._similar.get(self._key(symbol), ()))
