"""The desk: what is stored and what the engine computes, from Python: ``desk = qdag.open()``.

``desk`` is the one object and ``reading`` its half that gives rows of instruments; ``days`` and ``moments`` read dates,
``names`` finds out what is meant by a feature's name, ``rows`` reads, ``compute`` computes expressions on the spot,
``shapes`` gives rows as pandas, polars, Arrow or a panel. ``results``, ``factor`` and ``scoring`` are about metrics,
one factor and one model; ``runs`` starts runs, ``notebook`` shows things.
"""
