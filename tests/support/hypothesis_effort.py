"""How often a property is tried: a quarter of its number every day, all of it with `-m slow`, where every property runs once more."""

from __future__ import annotations

MIN_EXAMPLES = 20
thorough = False  # tests/conftest.py says so before any test is read


def tries(count: int) -> int:
    """`count` in the slow run; every day a quarter, but no fewer than `ALWAYS` where so many were wished."""
    return count if thorough else min(count, max(MIN_EXAMPLES, count // 4))
