"""Compiled kernels, one file per family; plain loops on tiles. No expression, panel or table is known here.

A tile holds a few instruments ("lanes") over all sessions, sessions outermost: element ``t * lanes + lane``. It is
passed flat, so that one step back in time is ``lanes`` elements back and every loop runs over contiguous memory.

Rolling families do not run from the first session to the last with one running state: such a state depends on where it
began, and then a window computed today would differ in its last bits from the same window computed in a longer panel.
They combine windows instead: a window of 60 is two windows of 30, and so on down to single values (``windows.chain``).
That costs O(log window) vector operations for all windows of a series together, is accurate (pairwise summation,
pairwise merging of moments), and makes each value a function of its window's content alone.
"""
