"""A seeded market for tests and benchmarks: any size, the same bars for the same seed. Never mixed with real data.

How an instrument comes about, for its session t (all draws standard normal unless said):

1. Market and own returns: r[t] = 0.0003 + 0.007 m[t] + 0.018 x[t], where m is common to all instruments.
2. The opening gap: open[t] = close[t-1] (1 + 0.008 g[t]). With ``planted_ic`` = c, x[t] = c g[t-2] + sqrt(1-c^2) e[t]:
   the gap ``$open/Ref($close, 1) - 1`` of session t has the cross-sectional correlation c with the horizon-1 forward
   return ``Ref($close, -2)/Ref($close, -1) - 1``. For c = 0 it has none.
3. High and low lie outside open and close by small random shares; the vwap lies between them; volumes are log-normal.
4. Raw prices carry splits (2 for 1, about one in 1,500 sessions), the factor removes them.
5. Every fifth instrument is listed late (20 to 400 sessions into the history), every 50th stands still for some
   sessions (constant price), sessions are suspended singly and in blocks, and 0.2 % of bars have no volume.

Draws are made in blocks of instruments, in the order of time: more sessions or more instruments change no earlier bar.
"""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np

from qdag.errors import unknown
from qdag.schema import QUARANTINE
from qdag.settings import SyntheticSource, UniverseSettings
from qdag.sources.protocol import Delivery
from qdag.sources.rows import bars_table
from qdag.sources.spill import SessionParts

BLOCK = 64
"""Instruments that are drawn together."""
MARKET, OWN, GAP = 0.007, 0.018, 0.008
"""Standard deviations of a session: the market's return, an instrument's own, and the opening gap."""


def instrument_names(count: int) -> list[str]:
    """``SYN00001`` and so on."""
    return [f"SYN{i:05d}" for i in range(1, count + 1)]


class Synthetic:
    """The generator as a source."""

    def __init__(self, universe: str, settings: UniverseSettings, source: SyntheticSource):
        self.universe = universe
        self.settings = settings
        self.source = source

    def deliver(self, sessions: np.ndarray, start: date, end: date) -> Delivery:
        """Generate the bars of [start, end]; see ``Source.deliver``."""
        names = instrument_names(self.source.instruments)
        if self.settings.instruments is not None:
            for name in self.settings.instruments:
                if name not in names:
                    raise unknown(f"instrument of universe {self.universe!r}", name, names)
        wanted = set(self.settings.instruments if self.settings.instruments is not None else names)
        sessions = np.asarray(sessions).astype("datetime64[D]")
        low = int(np.searchsorted(sessions, np.datetime64(start, "D")))
        high = int(np.searchsorted(sessions, np.datetime64(end, "D"), side="right"))
        parts = SessionParts(sessions)
        delivered = 0
        for rows in self._blocks(names, wanted, sessions[:high], low):
            parts.add(bars_table(self.universe, rows, ordered=True))
            delivered += len(rows["date"])
        return Delivery(parts, QUARANTINE.arrow().empty_table(), checks={"rows_delivered": float(delivered)})

    def _blocks(
        self, names: list[str], wanted: set[str], sessions: np.ndarray, low: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """Rows of each block of instruments, from session position ``low`` on."""
        if not len(sessions):
            return
        for block in range(-(-len(names) // BLOCK)):
            chosen = names[block * BLOCK : (block + 1) * BLOCK]
            columns = np.array([i for i, name in enumerate(chosen) if name in wanted], int)
            if not len(columns):
                continue
            market = generate(self.source.seed, block, len(sessions), self.source.planted_ic)
            exists = market.pop("exists")[low:, columns]
            at, who = np.nonzero(exists)
            rows = {name: values[low:, columns][exists] for name, values in market.items()}
            rows["date"] = sessions[low:][at]
            rows["instrument"] = np.array(chosen, object)[columns[who]]
            yield rows


def generate(seed: int, block: int, sessions: int, planted_ic: float) -> dict[str, np.ndarray]:
    """One block of the market: arrays of shape (sessions, BLOCK), float64, and ``exists`` (bool): the bar is delivered.

    Prices and volume are raw; ``factor`` is 1 at each instrument's first delivered bar.
    """
    shape = (sessions, BLOCK)

    def draw(purpose: int) -> np.random.Generator:
        # one stream per purpose, drawn session by session: a longer history begins with the same draws
        return np.random.default_rng([seed, block, purpose])

    index = np.arange(BLOCK) + block * BLOCK
    session = np.arange(sessions)[:, None]
    gap = np.clip(draw(0).standard_normal(shape), -6, 6)
    own = draw(1).standard_normal(shape)
    signal = np.zeros(shape)
    signal[2:] = gap[:-2]
    # the first two sessions have no earlier gap; they stay pure noise
    mixed = planted_ic * signal + np.sqrt(1 - planted_ic**2) * own
    own = np.clip(np.where(session < 2, own, mixed), -6, 6)
    common = np.clip(np.random.default_rng([seed, 2**31]).standard_normal((sessions, 1)), -6, 6)
    change = 0.0003 + MARKET * common + OWN * own
    opening = GAP * gap
    still_from, still_for = draw(2).integers(50, 500, BLOCK), draw(3).integers(20, 60, BLOCK)
    still = (index % 50 == 7) & (session >= still_from) & (session < still_from + still_for)
    change[still] = 0.0
    opening[still] = 0.0
    change[0] = 0.0

    close = np.exp(draw(4).normal(3.4, 0.6, BLOCK)) * np.cumprod(1 + change, axis=0)
    opened = np.concatenate([close[:1], close[:-1]]) * (1 + opening)
    spread = np.where(still, 0.0, 0.006) * np.abs(draw(5).standard_normal(shape))
    high = np.maximum(opened, close) * (1 + spread)
    low = np.minimum(opened, close) / (1 + spread)
    vwap = low + (high - low) * draw(6).random(shape)
    volume = np.round(np.exp(draw(7).normal(13.5, 0.5, shape) + draw(8).normal(0, 1, BLOCK)))
    volume[draw(9).random(shape) < 0.002] = 0.0

    listed = np.where(index % 5 == 3, draw(10).integers(20, 400, BLOCK), 0)
    exists = (session >= listed) & (draw(11).random(shape) >= 0.002)
    halt_from, halt_for = draw(12).integers(10, 1500, BLOCK), draw(13).integers(3, 30, BLOCK)
    exists &= ~((index % 10 == 4) & (session >= halt_from) & (session < halt_from + halt_for))

    split = np.where(draw(14).random(shape) < 1 / 1500, 2.0, 1.0)
    split[0] = 1.0
    # a vendor tells a split on a session that trades
    split[~exists] = 1.0
    level = np.cumprod(split, axis=0)
    first = np.where(exists.any(axis=0), exists.argmax(axis=0), 0)
    factor = level / level[first, np.arange(BLOCK)]
    prices = {"open": opened, "high": high, "low": low, "close": close}
    raw = {name: values / factor for name, values in prices.items()}
    shares = volume * factor
    return {
        **raw,
        "volume": shares,
        "amount": vwap * volume,
        "factor": factor,
        "split": split,
        "dividend": np.zeros(shape),
        "exists": exists,
    }


def source_of(universe: str, settings: UniverseSettings, source: SyntheticSource, downloads: Path | None) -> Synthetic:
    """See ``qdag.sources.open``."""
    return Synthetic(universe, settings, source)
