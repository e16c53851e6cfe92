"""Add inputs of a fuzzing run that increase coverage to the corpus of the tests.

Usage: `python fuzz/keep.py TARGET WORK`. Coverage is measured in branches: pairs of consecutively
executed lines of the library. The shortest inputs are tried first. atheris is not needed.
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
# Longer inputs are not corpus.
MAX_INPUT_BYTES = 2000

import seeds  # noqa: E402
import targets  # noqa: E402

Branch = tuple[str, int, int]


def branches_of(target: targets.Target, data: bytes) -> set[Branch]:
    branches: set[Branch] = set()
    last: dict[int, int] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(LIBRARY):
            return None
        if event == "line":
            branches.add((file, last.get(id(frame), 0), frame.f_lineno))
            last[id(frame)] = frame.f_lineno
        elif event == "call":
            last[id(frame)] = 0
        return trace

    sys.settrace(trace)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return branches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(targets.TARGETS))
    parser.add_argument("work", type=Path)
    options = parser.parse_args()
    target, corpus = targets.TARGETS[options.target], TESTS / "fuzz" / "corpus" / options.target
    corpus.mkdir(parents=True, exist_ok=True)
    covered: set[Branch] = set()
    for data in (*seeds.SEEDS[options.target], *(path.read_bytes() for path in corpus.glob("*"))):
        covered |= branches_of(target, data)
    for data in sorted(
        (
            path.read_bytes()
            for path in options.work.glob("*")
            if path.stat().st_size <= MAX_INPUT_BYTES
        ),
        key=len,
    ):
        new = branches_of(target, data) - covered
        if new:
            covered |= new
            (corpus / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)


if __name__ == "__main__":
    main()
