"""Industries of instruments, by hand and from a real list."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qdag.errors import SourceError
from qdag.sources.membership import read_industries

HEADER = "ts_code,symbol,name,area,industry,list_date\n"


def test_industries(tmp_path):
    path = tmp_path / "stocks.csv"
    path.write_text(
        HEADER + "000001.SZ,000001,平安银行,深圳,银行,19910403\n600000.SH,600000,x,y,银行,2\n"
        "300001.SZ,300001,x,y,,3\n600519.SH,600519,x,y,白酒,4\n688001.SH,688001,x,y,芯片,5\n",
        "utf-8",
    )
    names = ["SH600519", "SH600000", "SZ000001", "SZ300001", "SZ000002"]
    found = read_industries(path, "cn", names)
    assert found.names == tuple(sorted(["银行", "白酒", "芯片"]))
    assert {n: found.names[c] for n, c in found.codes.items()} == {
        "SH600000": "银行", "SH600519": "白酒", "SZ000001": "银行"
    }  # fmt: skip
    assert (found.unknown, found.others) == (("SZ000002", "SZ300001"), 1)
    series = found.series(names)
    assert series.dtype == np.float32
    assert np.isnan(series).tolist() == [False, False, False, True, True]
    # a code does not depend on the universe
    assert read_industries(path, "cn", ["SH600000"]).codes["SH600000"] == found.codes["SH600000"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n", "needs the columns ts_code"),
        ("", "needs the columns ts_code"),
        (HEADER + "600000.SH,600000,x,y,a,1\n600000.XSHG,600000,x,y,b,1\n", "line 3: '600000.XSHG' is in 'b', but"),
    ],
)
def test_wrong_industry_files(tmp_path, text, said):
    path = tmp_path / "stocks.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=said):
        read_industries(path, "cn", ["SH600000"])
    path.write_bytes(b"ts_code,industry\n\xff\xfe,x\n")
    with pytest.raises(SourceError, match="cannot be read"):
        read_industries(path, "cn", ["SH600000"])
    with pytest.raises(SourceError, match="cannot be read"):
        read_industries(Path(tmp_path / "none.csv"), "cn", [])


def test_real_industries(real_market):
    names = [f"{p.stem[-2:]}{p.stem[:6]}" for p in (real_market / "cn_daily").glob("*.csv")]
    found = read_industries(real_market / "cn_stock_basic.csv", "cn", names)
    frame = pd.read_csv(real_market / "cn_stock_basic.csv", dtype=str, keep_default_na=False)
    expected = {f"{c[-2:]}{c[:6]}": i for c, i in zip(frame["ts_code"], frame["industry"], strict=True) if i}
    assert {n: found.names[c] for n, c in found.codes.items()} == {n: expected[n] for n in names if n in expected}
    assert len(found.codes) > 250
