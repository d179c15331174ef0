"""Spellings of symbols, by hand."""

import pytest

from qdag.sources.membership import Symbols


@pytest.mark.parametrize(
    ("region", "symbol", "instruments", "found"),
    [
        ("cn", "600000.SH", ["SH600000"], ("SH600000",)),
        ("cn", "600000.XSHG", ["SH600000"], ("SH600000",)),
        ("cn", "600000.ss", ["SH600000"], ("SH600000",)),
        ("cn", "sh.600000", ["SH600000"], ("SH600000",)),
        ("cn", "sz000001", ["SZ000001", "SH000001"], ("SZ000001",)),
        ("cn", "600000", ["SH600000", "SZ000001"], ("SH600000",)),
        ("cn", "000001", ["SZ000001", "SH000001"], ("SZ000001",)),
        ("cn", "000001.XSHE", ["SZ000001", "SH000001"], ("SZ000001",)),
        ("cn", "300750", ["SZ300750"], ("SZ300750",)),
        ("cn", "920819", ["BJ920819"], ("BJ920819",)),
        ("cn", "430556.BJ", ["BJ430556"], ("BJ430556",)),
        ("cn", "900901", ["SH900901"], ("SH900901",)),
        ("cn", "SH600000", ["600000.SH"], ("600000.SH",)),
        ("cn", "600000.SZ", ["SH600000"], ()),
        ("cn", "60000", ["SH600000"], ()),
        ("us", "BRK.B", ["BRK-B"], ("BRK-B",)),
        ("us", "BRK-B", ["BRK.B", "BRK.A"], ("BRK.B",)),
        ("us", "BRK/B", ["BRK_B"], ("BRK_B",)),
        ("us", "BRK B", ["BRK.B", "BRK-B"], ("BRK-B", "BRK.B")),
        ("us", "BRK.B", ["BRK.B", "BRK-B"], ("BRK.B",)),
        ("us", "BRKB", ["BRK.B"], ()),
        ("us", "na", ["NA", "N"], ("NA",)),
        ("us", "TRUE", ["TRUE"], ("TRUE",)),
    ],
)
def test_spellings(region, symbol, instruments, found):
    assert Symbols(region, instruments).find(symbol) == found
