from __future__ import annotations

import pytest

import majordomo as md
from majordomo import llm
from majordomo.dialects.conversation import id_shortener, normalize_tool_ids, order_tool_results
from majordomo.llm import Message, TextPart

ONE, TWO = md.ToolCallPart("a", "look", "{}"), md.ToolCallPart("b", "look", "{}")


def results(message: Message) -> list[str]:
    return [
        f"{part.call_id}:{part.parts[0].text}"
        for part in message.parts
        if isinstance(part, md.ToolResultPart)
    ]


def test_results_follow_their_calls_in_the_order_of_the_calls() -> None:
    messages = [
        llm.assistant(ONE, TWO),
        md.tool_result(TWO, "2"),
        md.system("x"),
        md.user("y"),
        md.tool_result(ONE, "1"),
    ]
    ordered = order_tool_results(messages)
    assert [message.role for message in ordered] == ["assistant", "tool", "system", "user"]
    assert results(ordered[1]) == ["a:1", "b:2"]


def test_results_without_a_call_and_second_results_keep_their_position() -> None:
    unknown = md.ToolCallPart("c", "look", "{}")
    messages = [
        md.tool_result(unknown, "0"),
        llm.assistant(ONE),
        md.tool_result(ONE, "1"),
        md.tool_result(ONE, "2"),
    ]
    assert [results(message) for message in order_tool_results(messages)] == [
        ["c:0"],
        [],
        ["a:1"],
        ["a:2"],
    ]


def test_a_tool_message_may_hold_results_only() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        order_tool_results([Message("tool", (TextPart("x"),))])
    assert caught.value.field == "messages"


def test_long_ids_are_shortened_uniquely_and_deterministically() -> None:
    calls = [md.ToolCallPart("x" * 50 + end, "look", "{}") for end in ("1", "2", "2")]
    history = [llm.assistant(*calls), *(md.tool_result(call, "x") for call in calls)]
    first, second = (normalize_tool_ids(history, id_shortener(40)) for _ in range(2))
    ids = [part.id for part in first[0].parts if isinstance(part, md.ToolCallPart)]
    assert len(set(ids)) == 3
    assert {len(identity) for identity in ids} == {40}
    assert [
        part.call_id
        for message in first[1:]
        for part in message.parts
        if isinstance(part, md.ToolResultPart)
    ] == ids
    assert first == second
    assert normalize_tool_ids([llm.assistant(ONE)], id_shortener(40))[0].parts == (ONE,)


def test_messages_without_tools_are_unchanged() -> None:
    messages = [Message("user" if number % 2 else "assistant", ("hi",)) for number in range(200)]
    assert all(
        result is message
        for result, message in zip(
            order_tool_results(normalize_tool_ids(messages)), messages, strict=True
        )
    )
