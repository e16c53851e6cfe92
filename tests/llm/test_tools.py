from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import majordomo as md
from majordomo.llm.tools import as_tool, partial_output, read_output

BOMB = '{"a": [' + "[]," * (1 << 21) + "1]}"  # 6 MiB, and 128 once read


def test_a_signature_is_cached_but_its_schema_is_copied() -> None:
    def shout(text: str, times: int = 1) -> str:
        """Say it louder."""
        return text.upper() * times

    first = as_tool(shout)
    first.parameters["properties"].clear()
    second = as_tool(shout)
    assert second.model is first.model
    assert list(second.parameters["properties"]) == ["text", "times"]
    assert (second.name, second.description, second.function) == ("shout", "Say it louder.", shout)


def test_a_changed_docstring_invalidates_the_cache() -> None:
    def shout(text: str) -> str:
        """Say it louder."""
        return text

    as_tool(shout)
    shout.__doc__ = "Say it softer."
    shout.__name__ = "whisper"
    assert (as_tool(shout).name, as_tool(shout).description) == ("whisper", "Say it softer.")


def test_the_cache_does_not_keep_a_function_alive() -> None:
    def shout(text: str) -> str:
        return text

    as_tool(shout)
    gone = weakref.ref(shout)
    del shout
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "read",
    [
        lambda text: md.ToolCallPart("a", "f", text).arguments,
        lambda text: read_output({}, text),
        lambda text: read_output(dict, f"```\n{text}\n```"),
    ],
    ids=["arguments", "output", "fenced output"],
)
def test_json_that_would_fill_the_memory_is_rejected(read: Callable[[str], Any]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(md.BadResponseError) as caught:
            read(BOMB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "TOO_MANY_VALUES"
    assert peak < 16 << 20
    assert read('{"a": [1]}') == {"a": [1]}


def test_unfinished_json_that_would_fill_the_memory_is_ignored() -> None:
    assert partial_output(BOMB[:-10]) is None
    assert partial_output('{"a": "[],[') == {"a": "[],["}
