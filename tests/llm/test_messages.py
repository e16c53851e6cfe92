from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

import majordomo as md
from majordomo import llm
from majordomo.llm.tools import as_tool, output_schema

Image = Callable[..., md.ImagePart]
PIXEL = md.ImagePart(b"GIF89a\x01\0\x01\0;")
TEXT = st.text(st.characters(codec="utf-8"))
PARTS = st.one_of(
    TEXT.map(md.TextPart),
    st.just(PIXEL),
    st.builds(md.FilePart, st.binary(), TEXT, TEXT),
    st.builds(md.ThinkingPart, TEXT, TEXT, st.dictionaries(TEXT, TEXT)),
    st.builds(md.ToolCallPart, TEXT, TEXT, TEXT),
    st.builds(
        md.ToolResultPart,
        TEXT,
        TEXT,
        st.lists(TEXT.map(md.TextPart) | st.just(PIXEL)).map(tuple),
        st.booleans(),
    ),
)
MESSAGES = st.lists(
    st.builds(
        md.Message,
        st.sampled_from(["system", "user", "assistant", "tool"]),
        st.lists(PARTS).map(tuple),
    )
)


@given(MESSAGES)
def test_a_conversation_round_trips_through_json(messages: list[md.Message]) -> None:
    assert md.load_messages(md.dump_messages(messages)) == messages


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"majordomo":"messages","version":2,"messages":[]}',
        '{"majordomo":"messages","version":1,"messages":[{"role":"x","parts":[]}]}',
        '{"majordomo":"messages","version":1,"messages":[{"role":"user","parts":[{"type":"image","data":"PGh0bWw+"}]}]}',
        '{"majordomo":"messages","version":1,"messages":[{"role":"user","parts":[{"type":"text","text":5}]}]}',
        "[" * 100_000,
    ],
)
def test_other_text_is_rejected_as_a_saved_conversation(text: str) -> None:
    with pytest.raises(md.InvalidRequestError):
        md.load_messages(text)


def test_a_newer_version_is_named_in_the_error() -> None:
    with pytest.raises(md.InvalidRequestError, match="version 9"):
        md.load_messages('{"majordomo":"messages","version":9,"messages":[]}')


def test_text_becomes_a_part(image: Image) -> None:
    part = image()
    message = md.user("look", part)
    assert (
        message == md.Message("user", ("look", part)) == llm.user_parts(md.TextPart("look"), part)
    )  # type: ignore[arg-type]
    assert (message.text, message.images) == ("look", (part,))
    for bad in (5, None, b"x"):
        with pytest.raises(md.InvalidRequestError):
            md.user(bad)  # type: ignore[arg-type]
    with pytest.raises(md.InvalidRequestError):
        md.Message("wizard", ())  # type: ignore[arg-type]
    with pytest.raises(md.InvalidRequestError):
        md.tool_result(md.ToolCallPart("a", "f"), md.ThinkingPart("x"))  # type: ignore[arg-type]


def test_arguments_are_parsed_on_access_and_kept_unchanged() -> None:
    assert md.ToolCallPart("a", "f", '{"x": 1}').arguments == {"x": 1}
    assert md.ToolCallPart("a", "f", " ").arguments == {}
    for wrong in ("{", "[1]", "5", "[" * 100_000):
        call = md.ToolCallPart("a", "f", wrong)
        assert call.arguments_json == wrong
        with pytest.raises(md.BadResponseError) as caught:
            _ = call.arguments
        assert caught.value.code == "BAD_TOOL_ARGUMENTS"


class Location(BaseModel):
    city: str


def test_the_signature_of_a_function_becomes_its_schema() -> None:
    async def forecast(
        location: Location,
        days: Annotated[int, Field(ge=1)] = 3,
        unit: Literal["C", "F"] = "C",
        tags: list[str] | None = None,
    ) -> str:
        """Tell the weather
        for some days.

        Args:
            location: where it is
                asked for
            days (int): how many

        Returns:
            text
        """
        return ""

    tool = as_tool(forecast)
    properties: Any = tool.parameters["properties"]
    assert (tool.name, tool.description) == ("forecast", "Tell the weather\nfor some days.")
    assert tool.parameters["required"] == ["location"]
    assert properties["days"] == {
        "default": 3,
        "description": "how many",
        "minimum": 1,
        "title": "Days",
        "type": "integer",
    }
    assert properties["unit"]["enum"] == ["C", "F"]
    assert properties["location"]["description"] == "where it is asked for"
    assert json.dumps(tool.parameters)


def test_an_invalid_tool_is_rejected() -> None:
    def star(*things: int) -> None: ...
    def unknown(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def odd(x: object.__class__) -> None: ...  # type: ignore[name-defined]

    for bad in (5, star, unknown):
        with pytest.raises(md.InvalidRequestError) as caught:
            as_tool(bad)  # type: ignore[arg-type]
        assert caught.value.field == "tools"
    for name in ("", "a b", "x" * 65, "ä"):
        with pytest.raises(md.InvalidRequestError):
            md.Tool(name)


def test_output_is_a_type_or_a_schema() -> None:
    assert output_schema({"type": "object"}) == {"type": "object"}
    assert output_schema(list[int]) == {"items": {"type": "integer"}, "type": "array"}
    with pytest.raises(md.InvalidRequestError) as caught:
        output_schema(type("Odd", (), {}))
    assert caught.value.field == "output"
