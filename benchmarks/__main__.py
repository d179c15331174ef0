"""``python -m benchmarks [--write] [NAME ...]``: run the measurements one after the other, each in its own process.

``--write`` keeps what they print in docs/benchmarks.md.
"""

import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
REPORT = HERE.parent / "docs" / "benchmarks.md"
NAMES = ("alpha158", "scale", "qlib_bin", "quality", "factor_metrics", "bookkeeping", "append_rewrite", "crash_loop")


def main() -> int:
    arguments = sys.argv[1:]
    write = "--write" in arguments
    names = [a for a in arguments if a != "--write"] or list(NAMES)
    known = sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_"))
    if wrong := [name for name in names if name not in known]:
        print(f"no benchmark {wrong[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    parts, worst = [], 0
    for name in names:
        print(f"== {name}", flush=True)
        code, printed = _run(name)
        worst = max(worst, code)
        parts.append(f"## {name}\n\n`python -m benchmarks.{name}`\n\n```text\n{printed.rstrip()}\n```\n")
    if write and not worst:
        head = f"Written by `python -m benchmarks --write` on {date.today()}, Python {platform.python_version()}."
        REPORT.write_text("# Benchmarks\n\n" + head + "\n\n" + "\n".join(parts))
    return worst


def _run(name: str) -> tuple[int, str]:
    printed = []
    with subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True, cwd=HERE.parent
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            printed.append(line)
    return process.returncode, "".join(printed)


if __name__ == "__main__":
    sys.exit(main())
