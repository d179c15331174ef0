"""The embedded stocks."""

from datetime import date

import pyarrow.compute as pc
import pytest

from qdag.core.sessions import calendar_for
from qdag.errors import UnknownNameError
from qdag.settings import SampleSource, UniverseSettings
from qdag.sources import open_source


def test_sample():
    settings = UniverseSettings(source=SampleSource(), calendar="XNYS", start=date(2000, 3, 1), end=date(2013, 3, 1))
    source, sessions = open_source("u", settings), calendar_for(settings).all
    delivery = source.deliver(sessions, settings.start, settings.end)
    assert (delivery.bars.num_rows, delivery.quarantine.num_rows) == (12154, 0)
    apple = delivery.bars.filter(pc.equal(delivery.bars["instrument"], "AAPL"))
    factor = dict(zip(apple["date"].to_pylist(), apple["factor"].to_numpy(), strict=True))
    assert factor[date(2000, 3, 1)] == 1
    assert factor[date(2000, 6, 21)] / factor[date(2000, 6, 20)] == pytest.approx(2, rel=1e-6)
    part = source.deliver(sessions, date(2005, 1, 3), date(2005, 12, 30))
    inside = pc.equal(pc.year(delivery.bars["date"]), 2005)
    assert part.bars.equals(delivery.bars.filter(inside))
    misspelt = open_source("u", settings.model_copy(update={"instruments": ("AAPLE",)}))
    with pytest.raises(UnknownNameError, match="did you mean 'AAPL'"):
        misspelt.deliver(sessions, settings.start, settings.end)
