"""How many examples a property test runs: a quarter normally, all with `-m slow`.

The slow run repeats every property test with its full number of examples.
"""

from __future__ import annotations

MIN_EXAMPLES = 20
# tests/conftest.py sets this before it collects tests.
thorough = False


def max_examples(count: int) -> int:
    """Return how many examples to run of `count`.

    That is `count` in the slow run, else a quarter of it but at least `MIN_EXAMPLES` (or `count`,
    if that is smaller).
    """
    return count if thorough else min(count, max(MIN_EXAMPLES, count // 4))
