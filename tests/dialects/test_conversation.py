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


def test_results_stand_behind_their_calls_in_their_order() -> None:
    given = [
        llm.assistant(ONE, TWO),
        md.tool_result(TWO, "2"),
        md.system("x"),
        md.user("y"),
        md.tool_result(ONE, "1"),
    ]
    made = order_tool_results(given)
    assert [message.role for message in made] == ["assistant", "tool", "system", "user"]
    assert results(made[1]) == ["a:1", "b:2"]


def test_a_result_without_a_call_and_a_second_one_stay_where_they_are() -> None:
    stray = md.ToolCallPart("c", "look", "{}")
    given = [
        md.tool_result(stray, "0"),
        llm.assistant(ONE),
        md.tool_result(ONE, "1"),
        md.tool_result(ONE, "2"),
    ]
    assert [results(message) for message in order_tool_results(given)] == [
        ["c:0"],
        [],
        ["a:1"],
        ["a:2"],
    ]


def test_a_turn_of_a_tool_holds_results_only() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        order_tool_results([Message("tool", (TextPart("x"),))])
    assert caught.value.field == "messages"


def test_long_ids_become_brief_ones_that_differ_and_stay_the_same() -> None:
    long = [md.ToolCallPart("x" * 50 + end, "look", "{}") for end in ("1", "2", "2")]
    history = [llm.assistant(*long), *(md.tool_result(call, "x") for call in long)]
    once, again = (normalize_tool_ids(history, id_shortener(40)) for _ in range(2))
    ids = [part.id for part in once[0].parts if isinstance(part, md.ToolCallPart)]
    assert len(set(ids)) == 3
    assert {len(identity) for identity in ids} == {40}
    assert [
        part.call_id
        for message in once[1:]
        for part in message.parts
        if isinstance(part, md.ToolResultPart)
    ] == ids
    assert once == again
    assert normalize_tool_ids([llm.assistant(ONE)], id_shortener(40))[0].parts == (ONE,)


def test_turns_without_tools_go_as_they_are_however_many() -> None:
    turns = [Message("user" if number % 2 else "assistant", ("hi",)) for number in range(200)]
    assert all(
        went is came
        for went, came in zip(order_tool_results(normalize_tool_ids(turns)), turns, strict=True)
    )
