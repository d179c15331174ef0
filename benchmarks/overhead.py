"""What orchestration costs: assets through Dagster against the bare stage functions, each in a process of its own.

All assets but the model of the sample universe: one session, and 250 sessions in one run, on a filled data home. The
time through Dagster is that of ``qdag materialize``, from the start of the process to its end; it is taken apart with
what the run itself recorded. The bare calls do the same work: the stages, the quality rules on what they wrote, and the
pages. How long the stages alone take is shown beside it.

    python -m benchmarks.overhead [--repeats 3]
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

SESSIONS = 250
BARE = """
import sys
from datetime import date
from qdag import schema
from qdag_tests import stages
from qdag.settings import load_settings
platform = stages.Platform.open(load_settings())
start, end = (date.fromisoformat(text) for text in sys.argv[1:3])
for name in stages.asset_names(platform.settings):
    if name != "trained_model":
        stage = stages.feature_stage(name)
        stage(platform, "sample", start, end)
"""
CHECKED = """
        from qdag.quality import Scope, judge
        from qdag.assets.chain import chain
        from qdag.quality.outcome import keep
        from qdag.quality.page import write_pages
        whole = chain(platform.settings)
        scope = Scope(platform.store, platform.settings, "sample", start, end)
        judged = judge(whole[name].rules(platform.settings, scope.limits), whole[name].frames(scope))
        keep(scope, name, judged.results, judged.profile, platform.provenance)
        write_pages(scope.settings, scope.store, scope.universe, scope.sessions(), whole.judged())
"""


@dataclass(frozen=True)
class Parts:
    """Seconds of a process: all of it, within the runs, in stages, in checks; and how many runs and steps."""

    wall: float
    run: float = 0.0
    stages: float = 0.0
    checks: float = 0.0
    runs: int = 0
    steps: int = 0


def timed(home: Path, *command: str) -> float:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("QDAG_", "DAGSTER_"))}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], env=environment | {"QDAG_HOME": str(home)}, cwd=home, capture_output=True, text=True
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    return seconds


def through_dagster(home: Path, first: date, last: date) -> Parts:
    wall = timed(home, "-m", "qdag", "materialize", "--start", str(first), "--end", str(last), "--months", "0")
    return taken_apart(home, wall)


def taken_apart(home: Path, wall: float) -> Parts:
    import dagster as dg

    from qdag.defs.checks import checks_of

    os.environ["DAGSTER_HOME"] = str(home / "dagster")
    run = stages = checks = 0.0
    steps = 0
    with dg.DagsterInstance.get() as instance:
        records = instance.get_run_records()
        for record in records:
            run += (record.end_time or 0) - (record.start_time or 0)
            for entry in instance.all_logs(record.dagster_run.run_id):
                event = entry.dagster_event
                if event is None:
                    continue
                if event.event_type is dg.DagsterEventType.STEP_SUCCESS:
                    steps += 1
                elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                    evaluation = event.asset_check_evaluation_data
                    # each check of an asset tells the seconds of all of them
                    told = float(evaluation.metadata["seconds_of_all_checks"].value)
                    checks += told / len(checks_of(evaluation.asset_key.to_user_string()))
            stages += sum(stage_seconds(instance, record.dagster_run.run_id))
    return Parts(wall, run, stages, checks, len(records), steps)


def stage_seconds(instance: object, run_id: str) -> list[float]:
    import dagster as dg

    found = {}
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):  # type: ignore[attr-defined]
        event = entry.dagster_event
        metadata = event.step_materialization_data.materialization.metadata
        # a range run has one event for each partition, of which the last tells of the whole window
        if "seconds" in metadata:
            found[event.asset_key] = float(metadata["seconds"].value)
    return list(found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    from qdag.assets.platform import Platform
    from qdag.settings import Settings

    platform = Platform.open(Settings())
    sessions = platform.calendar("sample").all
    start = platform.settings.universe("sample").start
    with tempfile.TemporaryDirectory(prefix="qdag-overhead-") as folder:
        before, filled = Path(folder) / "before", Path(folder) / "filled"
        before.mkdir()
        timed(before, "-c", BARE, str(start), str(sessions[-SESSIONS - 1]))
        shutil.copytree(before, filled)
        timed(filled, "-c", BARE, str(sessions[-SESSIONS]), str(sessions[-2]))
        empty = timed(before, "-c", "import qdag.assets.chain, qdag.engine.execute")
        print(f"a process that imports the stages and ends: {empty:.1f} s")
        print(
            f"{'case':<14} {'stages, s':>10} {'with checks, s':>15} {'Dagster, s':>11} {'ratio':>6} {'runs':>5} "
            f"{'steps':>6}   start and imports / stages / checks / bookkeeping, s"
        )
        for case, home, first in (
            ("one session", filled, sessions[-1]),
            (f"{SESSIONS} sessions", before, sessions[-SESSIONS]),
        ):
            bare, checked, through = [], [], []
            for at in range(given.repeats):
                for what in ("bare", "checked", "through"):
                    copy = Path(folder) / f"{what}-{at}"
                    shutil.copytree(home, copy)
                    if what == "bare":
                        bare.append(timed(copy, "-c", BARE, str(first), str(sessions[-1])))
                    elif what == "checked":
                        checked.append(timed(copy, "-c", BARE + CHECKED, str(first), str(sessions[-1])))
                    else:
                        through.append(through_dagster(copy, first.item(), sessions[-1].item()))
                    shutil.rmtree(copy)
            plain = statistics.median(checked)
            one = sorted(through, key=lambda parts: parts.wall)[len(through) // 2]
            rest = one.run - one.stages - one.checks
            print(
                f"{case:<14} {statistics.median(bare):10.1f} {plain:15.1f} {one.wall:11.1f} {one.wall / plain:6.2f} "
                f"{one.runs:>5} {one.steps:>6}   "
                f"{one.wall - one.run:.1f} / {one.stages:.1f} / {one.checks:.1f} / {rest:.1f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
