"""The ``qdag`` command: it asks the other rooms and writes what they say. Nothing is computed here."""

from qdag.cli.main import app, main

__all__ = ["app", "main"]
