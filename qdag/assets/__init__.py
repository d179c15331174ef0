"""The assets: one file each, with one protocol. ``chain(settings)`` has them in the order in which they are made.

No orchestrator is known here, and nothing outside spells the name of an asset.
"""
