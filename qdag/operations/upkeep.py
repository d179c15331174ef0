"""Upkeep of the stored tables with what the settings and the registered models know: which versions must stay. How
versions, files and backups work belongs to ``qdag.store``."""

from collections.abc import Iterable
from pathlib import Path

from qdag import __version__
from qdag.assets.platform import Platform
from qdag.errors import unknown
from qdag.settings import Settings
from qdag.store.backup import Backup, Report, backup
from qdag.store.integrity import Verified, verify
from qdag.store.versions import Expired, expire, readable_versions


def check_tables(platform: Platform, names: Iterable[str] | None) -> list[str]:
    """The named stored tables; all where none is named."""
    known = platform.store.names()
    for name in names or ():
        if name not in known:
            raise unknown("table", name, known)
    return list(names or known)


def protected_versions(settings: Settings) -> dict[str, set[int]]:
    """Versions by table that registered models read."""
    from qdag.models.tracking import versions_read

    return versions_read(settings)


def vacuum(
    platform: Platform,
    names: Iterable[str] | None = None,
    versions: int | None = None,
    days: float | None = None,
    dry_run: bool = False,
) -> list[Expired]:
    """Apply retention to tables; ``versions`` and ``days`` take the place of the settings' ones."""
    retention = platform.settings.retention
    protected = protected_versions(platform.settings)
    newest = retention.versions if versions is None else versions
    since = retention.days if days is None else days
    return [
        expire(platform.store, name, newest, since, protected.get(name, ()), dry_run)
        for name in check_tables(platform, names)
    ]


def compact(platform: Platform, names: Iterable[str] | None = None) -> dict[str, tuple[int, int]]:
    """Merge small files; number of files before and after, by table."""
    found = {}
    for name in check_tables(platform, names):
        before = platform.store.files(name).num_rows
        platform.store.compact(name)
        found[name] = (before, platform.store.files(name).num_rows)
    return found


def restore(platform: Platform, name: str, version: int) -> int:
    """Make an old version of a table the newest again; returns the new version."""
    check_tables(platform, [name])
    provenance = {**platform.provenance, "qdag_version": __version__, "restored_version": str(version)}
    return platform.store.restore(name, version, provenance)


def back_up(platform: Platform, target: str | Path, report: Report) -> Backup:
    """Back up all tables, with the versions that registered models read as far as they are readable, and the models."""
    from qdag.models.saved import saved_folders

    # models first: the versions that they read are looked up after them
    with saved_folders(platform.settings) as folders:
        protected = protected_versions(platform.settings)
        readable = {n: readable_versions(platform.store, n, protected.get(n, ())) for n in platform.store.names()}
        return backup(platform.store, target, readable, report, folders)


def verify_tables(platform: Platform, names: Iterable[str] | None = None) -> list[Verified]:
    """Verify tables: their newest version and the readable ones that registered models read."""
    protected = protected_versions(platform.settings)
    return [verify(platform.store, name, protected.get(name, ())) for name in check_tables(platform, names)]
