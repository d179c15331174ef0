"""A whole market from its source into raw_ohlcv and on into the Qlib directory, at three lengths of history.

``python -m benchmarks.ingest [--instruments 5000] [--sessions 1300 2600 5000]``. Each stage runs in its own process and
takes the whole history in one call; the peak is that of the process. Bars are synthetic.
"""

import argparse
import subprocess
import sys
from tempfile import TemporaryDirectory

STAGE = """
import sys
from datetime import date
from qdag_tests import stages
from qdag.core.resources import memory_mib
from qdag.settings import Settings, SyntheticSource, UniverseSettings
home, instruments, sessions, name = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
universe = UniverseSettings(
    source=SyntheticSource(instruments=instruments), calendar="XNYS", start=date(2005, 1, 3), end=date(2024, 12, 31)
)
platform = stages.Platform.open(Settings(home=home, universes={"market": universe}))
days = platform.calendar("market").all[:sessions]
done = getattr(stages, name)(platform, "market", days[0].item(), days[-1].item())
print(done.rows, done.seconds, memory_mib("VmHWM:"))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--instruments", type=int, default=5000)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1300, 2600, 5000])
    given = parser.parse_args()
    print(f"{given.instruments} instruments\n")
    print("| sessions | stage | rows | seconds | peak memory |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for sessions in given.sessions:
        with TemporaryDirectory(prefix="qdag-ingest-") as home:
            for name in ("raw_ohlcv", "qlib_bin"):
                command = [sys.executable, "-c", STAGE, home, str(given.instruments), str(sessions), name]
                told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                rows, seconds, peak = int(told[0]), float(told[1]), float(told[2]) / 1024
                print(f"| {sessions} | {name} | {rows:,} | {seconds:.0f} | {peak:.2f} GiB |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
