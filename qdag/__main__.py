"""``python -m qdag``."""

from qdag.cli import main

main()
