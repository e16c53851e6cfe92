"""Replay the corpus: inputs with coverage of their own, and inputs that once broke something."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
MAX_MEMORY_BYTES = 32 << 20


def inputs(target: str) -> list[bytes]:
    return [*SEEDS[target], *(path.read_bytes() for path in sorted((CORPUS / target).glob("*")))]


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_gives_a_result_or_a_typed_error_within_the_memory_limit(target: str) -> None:
    for data in inputs(target):
        tracemalloc.start()
        try:
            TARGETS[target](data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < MAX_MEMORY_BYTES


def test_corpus_is_small_and_every_folder_has_a_target() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= set(TARGETS) == set(SEEDS)
    assert len(files) < 400
    assert sum(path.stat().st_size for path in files) < 300_000
