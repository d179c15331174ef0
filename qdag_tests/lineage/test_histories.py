"""Whatever came in whichever order: after a refresh everything is as one build of the final files makes it."""

from datetime import date

import numpy as np
import pytest

from qdag.core.sessions import SessionCalendar
from qdag_tests.histories import History, Market

DAYS = SessionCalendar("XNYS", date(2018, 1, 2), date(2018, 8, 31)).all.tolist()
FACTORS = {"day": "$change", "place": "IdxMax($high, 10)", "rank": "CSRank(Mean($volume, 5))"}


@pytest.mark.parametrize("seed", range(4))
def test_a_home_that_lived_through_it_is_as_one_build(seed, tmp_path):
    # few tables: whichever a value comes from, it is stale or right by the same mechanism
    market = Market.random(tmp_path / "files", DAYS, 4, np.random.default_rng(seed))
    more = {"features": (), "custom_factors": FACTORS, "training": {"features": ("custom_factors",)}}
    history = History(market, tmp_path / "home", seed, horizons=(1, 5), **more)
    history.live(4)
    assert not history.differences(tmp_path / "once"), "\n".join(history.told)
