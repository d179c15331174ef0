"""The words of the tables quarantine and findings are declared once, and a wrong use of one is seen."""

from datetime import date

import numpy as np
import pytest

from qdag.sources.cleaning import Cleaner
from qdag.sources.files.table import FileRefused
from qdag.sources.reasons import ROW_REASONS, UNDATED, FindingKind, Reason, Refuses
from qdag.sources.web.client import PermanentError


def test_reasons_are_told_apart():
    both = {reason for reason in Reason if Refuses.ROW in reason.refuses and Refuses.FILE in reason.refuses}
    assert both == {Reason.BAD_INSTRUMENT, Reason.NAME_CLASH}
    assert set(UNDATED) < set(ROW_REASONS)
    assert {str(reason) for reason in UNDATED} == {"bad_date", "wrong_columns", "broken_line", "misplaced_date"}
    assert all(one.meaning for one in (*Reason, *FindingKind))
    assert all(reason.refuses for reason in Reason)


def test_the_word_is_the_reason():
    assert Reason("bad_date") is Reason.BAD_DATE
    assert f"{Reason.BAD_DATE}" == Reason.BAD_DATE == "bad_date"
    assert FindingKind("ticker_reuse") is FindingKind.TICKER_REUSE
    with pytest.raises(ValueError, match="'bad_dat'"):
        Reason("bad_dat")


def test_a_reason_is_not_said_of_what_it_is_not_of():
    day = date(2020, 1, 2)
    cleaner = Cleaner("u", np.array([day], "M8[D]"), day, day, day, "none")
    with pytest.raises(ValueError, match="'null_price' is said of"):
        cleaner.refuse_file("A.csv", "A", Reason.NULL_PRICE, "")
    with pytest.raises(ValueError, match="'empty_file' is said of"):
        cleaner.refuse_line("A.csv", "A", 1, "", Reason.EMPTY_FILE)
    with pytest.raises(ValueError, match="'fetch_failed' is said of"):
        FileRefused(Reason.FETCH_FAILED, "")
    with pytest.raises(ValueError, match="'unreadable' is said of"):
        PermanentError("", Reason.UNREADABLE)
