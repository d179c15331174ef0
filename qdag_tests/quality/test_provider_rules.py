"""The frames of Qlib's directory."""

import numpy as np

from qdag import schema
from qdag.quality import Scope
from qdag.quality.offenders import offenders
from qdag.quality.rule import violations
from qdag_tests.quality.toy import NAMES, bars, named, put
from qdag_tests.stages import rules_for


def test_bins_are_compared_with_the_table(scope: Scope) -> None:
    from qdag.store.bars import read_panel
    from qdag.store.qlib.writer import QlibBinWriter

    frame = bars(scope.sessions())
    gap = (frame["instrument"] == "BBB") & (frame["date"] == scope.sessions()[9])
    put(scope, schema.RAW_OHLCV, frame[~gap])
    provider = scope.settings.provider("toy")
    calendar = scope.calendar()
    QlibBinWriter(provider).write(read_panel(scope.store, "toy", scope.sessions()), calendar.all, calendar.future(5))
    found = named("qlib_bin", scope)
    rules = rules_for("qlib_bin")
    assert not any(violations(r, found[r.frame]).any() for r in rules if r.check == "structure")
    assert found["pool_prices"][["members", "priced"]].to_numpy().tolist()[9] == [3, 2]
    assert set(found["bins"]["instrument"]) == set(NAMES)
    assert {"close", "volume", "factor"} <= set(found["bins"]["field"])

    path = provider / "features" / "bbb" / "close.day.bin"
    values = np.fromfile(path, "<f4")
    values[1:] = np.roll(values[1:], -1)
    values.tofile(path)
    (provider / "features" / "ccc" / "volume.day.bin").unlink()
    lines, _ = offenders(rules[1], named("qlib_bin", scope)["bins"])
    assert {(line.instrument, line.sentence.split(":")[0]) for line in lines} == {("BBB", "close"), ("CCC", "volume")}
    apart = named("qlib_bin", scope)["adjusted"].set_index(["instrument", "field"])["difference"]
    assert apart[("BBB", "close")] > 1e-4
    assert apart.drop([("BBB", "close")]).max() < 1e-6

    day = provider / "calendars" / "day.txt"
    text = day.read_text().split()
    day.write_text("\n".join([*text[:5], *text[6:-1], "2020-04-04"]) + "\n")
    wrong = named("qlib_bin", scope)["calendar"]
    broken = wrong.loc[violations(rules[0], wrong), "date"].dt.strftime("%Y-%m-%d").tolist()
    assert broken == [text[5], text[-1], "2020-04-04"]
