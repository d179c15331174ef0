"""``python -m benchmarks [NAME ...]``: run the measurements one after the other, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

NAMES = ("alpha158", "factor_metrics", "bookkeeping")


def main() -> int:
    names = sys.argv[1:] or NAMES
    known = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if not p.stem.startswith("_"))
    for name in names:
        if name not in known:
            print(f"no benchmark {name!r}; there are: {', '.join(known)}", file=sys.stderr)
            return 2
    codes = []
    for name in names:
        print(f"== {name}", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
