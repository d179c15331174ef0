"""The data files of one write, made before any of them is put in place.

Where everything is made anew they stand in a tree of their own. Else those that are there are extended in place, or
written anew beside the old ones: values that are appended lie beyond the published calendar until it advances.
"""

import os
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from qdag.errors import StoreError
from qdag.store.qlib.files import FILES, TEMPORARY, contents, create, size_of, write_all
from qdag.store.qlib.layout import folder_name, parse_bin
from qdag.store.qlib.plan import NEW, TREE, Plan
from qdag.store.qlib.scratch import Blocks


class Files:
    """Data files that a plan asks for.

    Attributes
    ----------
    listed : first and last position of each instrument that has files afterwards
    patched, rewritten : instruments whose files were extended in place, and made anew
    rows : cells of the range from each instrument's first to its last row; ``missing``: NaN among their values
    changed : paths of files that were extended in place
    temporary : paths of files beside the old ones, which are to be put in place
    failures : what went wrong, by instrument
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.listed: dict[str, tuple[int, int]] = dict(plan.spans)
        self.patched = self.rewritten = self.rows = self.missing = 0
        self.changed: list[str] = []
        self.temporary: list[str] = []
        self.failures: dict[str, str] = {}

    def make(self, blocks: Blocks) -> None:
        """Make the files of all instruments.

        Parameters
        ----------
        blocks : the plan's names with their values in its range

        Raises
        ------
        StoreError
            Files that cannot be written, or that have lost values outside the range: all in one error.
        """
        (self.build if self.plan.fresh else self.extend)(blocks)
        if self.failures:
            shown = "; ".join(f"{k}: {v}" for k, v in sorted(self.failures.items())[:20])
            more = f"; and {len(self.failures) - 20} more" if len(self.failures) > 20 else ""
            raise StoreError(
                f"{len(self.failures)} of {len({*self.listed, *self.failures})} instruments cannot be written to "
                f"{self.plan.provider}, the calendar is unchanged: {shown}{more}; remove the cause and run again"
            )

    def build(self, blocks: Blocks) -> None:
        """Make a whole new tree; what fails is in ``failures``."""
        tree = self.plan.provider / NEW
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        for name, values, has in self._counted(blocks):
            there = np.flatnonzero(has)
            if not len(there):
                continue
            first, last = self.plan.low + int(there[0]), self.plan.low + int(there[-1])
            folder = f"{tree}/{folder_name(name)}"
            try:
                os.mkdir(folder)
                rows = contents(first, values[:, there[0] : there[-1] + 1])
                for file, content in zip(FILES, rows, strict=True):
                    create(f"{folder}/{file}", content)
            except OSError as error:
                self.failures[name] = str(error)
            self.listed[name] = first, last
            self.rewritten += 1

    def extend(self, blocks: Blocks) -> None:
        """Write the range into the files that are there; where that would not do, make new ones beside them. What
        fails is in ``failures``."""
        for name, values, has in self._counted(blocks):
            span = self.plan.spans.get(name)
            try:
                if span and self._fits(span, has) and self._patch(name, span, values, has):
                    self.patched += 1
                elif has.any() or (span and not self._untouched(name, span)):
                    self._rewrite(name, span, values)
            except (OSError, ValueError) as error:
                self.failures[name] = str(error)

    def clean(self) -> None:
        """Remove what was made and not put in place."""
        for path in self.temporary:
            Path(path).unlink(missing_ok=True)
        shutil.rmtree(self.plan.provider / NEW, ignore_errors=True)

    def _counted(self, blocks: Blocks) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Each instrument's values (F, S) and whether a session has any."""
        for names, values in blocks:
            empty = np.isnan(values)
            has = np.logical_not(np.all(empty, axis=1, keepdims=True))[:, 0]
            width = has.shape[1]
            within = np.where(has.any(axis=1), width - has[:, ::-1].argmax(axis=1) - has.argmax(axis=1), 0)
            self.rows += int(within.sum())
            # every value outside the rows is NaN
            self.missing += int(np.count_nonzero(empty)) - len(FILES) * int((width - within).sum())
            yield from zip(names, values, has, strict=True)

    # -- in place ------------------------------------------------------------------------------------------------------

    def _fits(self, span: tuple[int, int], has: np.ndarray) -> bool:
        """Whether the range can be written into the files without moving their first or last session back or forth.

        That is no less safe than new files: appended values are beyond the published calendar until it advances, and
        corrected ones reach a reader field by field either way. A crash is repaired by the same write again.
        """
        low, (first, last) = self.plan.low, span
        rows = np.flatnonzero(has)
        if low < first or (low == first and not has[0]):
            return False
        if low + len(has) <= last:
            return True
        return len(rows) > 0 and low + int(rows[-1]) >= last

    def _patch(self, name: str, span: tuple[int, int], values: np.ndarray, has: np.ndarray) -> bool:
        """Write the range into the files, or do nothing and return False: they do not hold exactly the listed span."""
        low, high, (first, last) = self.plan.low, self.plan.high, span
        stop = high - low if high <= last else int(np.flatnonzero(has)[-1]) + 1
        position = min(last + 1, low)
        gap = np.full((len(FILES), low - position), np.nan, "<f4")
        rows = np.concatenate([gap, values[:, :stop]], axis=1)
        paths = [self.plan.path(name, file) for file in FILES]
        descriptors = []
        try:
            for path in paths:
                descriptors.append(os.open(path, os.O_WRONLY))
                if os.fstat(descriptors[-1]).st_size != size_of(span):
                    return False
            for descriptor, row in zip(descriptors, rows, strict=True):
                write_all(descriptor, row.tobytes(), 4 * (position - first + 1))
        except FileNotFoundError:
            return False
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self.changed += paths
        self.listed[name] = first, max(last, low + stop - 1)
        return True

    def _untouched(self, name: str, span: tuple[int, int]) -> bool:
        """Whether the range misses the span, and no file has a torn or unpublished rest of an earlier write."""
        if span[0] < self.plan.high and span[1] >= self.plan.low:
            return False
        try:
            return all(os.stat(self.plan.path(name, f)).st_size == size_of(span) for f in FILES)
        except FileNotFoundError:
            return False

    # -- anew ----------------------------------------------------------------------------------------------------------

    def _rewrite(self, name: str, span: tuple[int, int] | None, values: np.ndarray) -> None:
        """Make whole new files beside the old ones, whose values after the listed span are leftovers."""
        plan = self.plan
        merged = np.full((len(FILES), plan.total), np.nan, "<f4")
        if span:
            for row, file in zip(merged, FILES, strict=True):
                if file not in self._new_fields:
                    start, stored = self._kept(plan.path(name, file), span)
                    row[start : start + len(stored)] = stored
        merged[:, plan.low : plan.high] = values
        there = np.flatnonzero((~np.isnan(merged)).any(axis=0))
        if not len(there):
            self.listed.pop(name, None)
            return
        first, last = int(there[0]), int(there[-1])
        os.makedirs(f"{plan.provider}/{TREE}/{folder_name(name)}", exist_ok=True)
        for file, content in zip(FILES, contents(first, merged[:, first : last + 1]), strict=True):
            self.temporary.append(plan.path(name, file) + TEMPORARY)
            create(self.temporary[-1], content)
        self.listed[name] = first, last
        self.rewritten += 1

    def _kept(self, path: str, span: tuple[int, int]) -> tuple[int, np.ndarray]:
        """Start and stored values of the listed span; damage outside the written range is refused, not written on."""
        plan, first, limit = self.plan, span[0], min(span[1] + 1, self.plan.known)
        try:
            start, stored = parse_bin(Path(path).read_bytes(), path)
            stored = stored[: max(limit - start, 0)]
        except (FileNotFoundError, ValueError):
            start, stored = first, np.empty(0, "<f4")
        whole = start == first and len(stored) == limit - first
        lost_from = start + len(stored) if start == first else first
        if not whole and (lost_from < plan.low or limit > plan.high):
            raise ValueError(
                f"{path} has lost values of {plan.calendar[lost_from]}..{plan.calendar[limit - 1]}; materialize "
                f"qlib_bin for all sessions to rebuild the directory"
            )
        return (start, stored) if start == first else (first, stored[:0])

    @cached_property
    def _new_fields(self) -> set[str]:
        """Files that no listed instrument has: of a field that is new."""
        plan = self.plan
        return {f for f in FILES if not any(os.path.exists(plan.path(n, f)) for n in plan.spans)}
