"""``python -m benchmarks [--write] [NAME ...]``: run the measurements one after the other, each in its own process.

``--write`` keeps what they print in docs/benchmarks.md, in place of what they printed before.
"""

import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
REPORT = HERE.parent / "docs" / "benchmarks.md"
NAMES = ("alpha158", "qlib_dropin", "qlib_workflow", "scale", "ingest", "qlib_bin", "quality", "overhead",
         "factor_metrics", "bookkeeping", "days", "attack_loop", "power_cut")  # fmt: skip


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
        when = f"`python -m benchmarks.{name}` on {date.today()}, Python {platform.python_version()}"
        parts.append(f"## {name}\n\n{when}\n\n```text\n{printed.rstrip()}\n```\n")
    if write and not worst:
        sections = {part.split("\n", 1)[0][3:]: part for part in _sections()} | dict(zip(names, parts, strict=True))
        head = "Written by `python -m benchmarks --write`; each section says when."
        REPORT.write_text("# Benchmarks\n\n" + head + "\n\n" + "\n".join(sections.values()))
    return worst


def _sections() -> list[str]:
    """The sections of the page as it is."""
    if not REPORT.exists():
        return []
    return [f"## {text.rstrip()}\n" for text in REPORT.read_text("utf-8").split("\n## ")[1:]]


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
