"""One file for each bench; ``tests.bench.__main__`` finds them.

A bench has a docstring whose first line says what it measures, ``ORDER`` (its place when all are run),
``add_options(parser)`` and ``measure(laboratory, options)``, which returns a ``figures.Report``.
"""
