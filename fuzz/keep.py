"""Adds to the corpus of the tests what of a run goes ways that nothing there goes yet: `python fuzz/keep.py TARGET WORK`.

A way is a pair of neighboring lines of the library. The shortest inputs are asked first. Needs no atheris.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"
sys.path[:0] = [str(HERE.parent), str(TESTS), str(TESTS / "providers"), str(TESTS / "fuzz")]
LIBRARY = str(HERE.parent / "majordomo")
LONGEST = 2000  # bytes of an input worth keeping

import seeds  # noqa: E402
import targets  # noqa: E402

Way = tuple[str, int, int]


def ways(target: targets.Target, given: bytes) -> set[Way]:
    found: set[Way] = set()
    last: dict[int, int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(LIBRARY):
            return None
        if event == "line":
            found.add((file, last.get(id(frame), 0), frame.f_lineno))
            last[id(frame)] = frame.f_lineno
        elif event == "call":
            last[id(frame)] = 0
        return trace

    sys.settrace(trace)
    try:
        target(given)
    finally:
        sys.settrace(None)
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("target", choices=sorted(targets.TARGETS))
    options.add_argument("work", type=Path)
    chosen = options.parse_args()
    target, kept = targets.TARGETS[chosen.target], TESTS / "fuzz" / "corpus" / chosen.target
    kept.mkdir(parents=True, exist_ok=True)
    known: set[Way] = set()
    for given in (*seeds.SEEDS[chosen.target], *(path.read_bytes() for path in kept.glob("*"))):
        known |= ways(target, given)
    for given in sorted(
        (path.read_bytes() for path in chosen.work.glob("*") if path.stat().st_size <= LONGEST),
        key=len,
    ):
        new = ways(target, given) - known
        if new:
            known |= new
            (kept / hashlib.sha256(given).hexdigest()[:12]).write_bytes(given)


if __name__ == "__main__":
    main()
