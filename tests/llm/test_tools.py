from __future__ import annotations

import gc
import weakref

from majordomo.llm.tools import as_tool


def test_a_function_is_read_once_and_what_one_loop_does_to_its_tool_is_not_seen_by_the_next() -> None:
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
