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


def test_a_function_is_read_once_and_what_one_loop_does_to_its_tool_is_not_seen_by_the_next() -> (
    None
):
    def shout(text: str, times: int = 1) -> str:
        """Say it louder."""
        return text.upper() * times

    first = as_tool(shout)
    first.parameters["properties"].clear()
    second = as_tool(shout)
    assert second.model is first.model
    assert list(second.parameters["properties"]) == ["text", "times"]
    assert (second.name, second.description, second.function) == ("shout", "Say it louder.", shout)


def test_a_function_described_anew_is_read_anew() -> None:
    def shout(text: str) -> str:
        """Say it louder."""
        return text

    as_tool(shout)
    shout.__doc__ = "Say it softer."
    shout.__name__ = "whisper"
    assert (as_tool(shout).name, as_tool(shout).description) == ("whisper", "Say it softer.")


def test_a_function_goes_when_nobody_else_holds_it() -> None:
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
def test_what_a_model_wrote_to_fill_the_memory_is_not_read(read: Callable[[str], Any]) -> None:
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


def test_nor_is_an_unfinished_one() -> None:
    assert partial_output(BOMB[:-10]) is None
    assert partial_output('{"a": "[],[') == {"a": "[],["}
