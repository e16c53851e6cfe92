"""OpenAI's own SDK against both chat test servers.

The servers accept what the SDK sends, and the SDK understands what the servers return.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field

from tests.servers.hashed_images import fingerprint
from tests.servers.openai_account import Turn, calls, generates, refuses, says, thinks
from tests.servers.openai_chat import OpenAIChat
from tests.servers.openai_responses import OpenAIResponses, color
from tests.servers.openai_responses_request import ENCRYPTED
from tests.servers.plain_client import b64, open_base64_image, pixel, png
from tests.servers.vendor_sdks import require
from tests.support.loopback import Handler, Loopback

openai = require("openai")

URL = "data:image/png;base64," + b64(png())
IMAGE_DESCRIPTION = "64x48 #0a141e"
SCHEMA = {
    "type": "object",
    "properties": {"at": {"type": "string"}},
    "required": ["at"],
    "additionalProperties": False,
}
LOOK_TOOL = {
    "type": "function",
    "name": "look",
    "description": "Looks.",
    "parameters": SCHEMA,
    "strict": True,
}
NESTED_LOOK_TOOL = {
    "type": "function",
    "function": {key: value for key, value in LOOK_TOOL.items() if key != "type"},
}
CALL_BOTH_TOOLS = 'Use look with {"at": "a fox"} and find'
FIND_TOOL = LOOK_TOOL | {"name": "find"}


class Mood(BaseModel):
    word: str = Field(description="One word.")
    score: int


class Day(BaseModel):
    morning: Mood = Field(description="Before noon.")
    others: list[Mood]


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


class TestChat:
    @pytest.fixture
    def server(self) -> OpenAIChat:
        return OpenAIChat()

    @pytest.fixture
    def client(self, server: OpenAIChat, serve: Callable[[Handler], Loopback]) -> Iterator[Any]:
        with openai.OpenAI(
            api_key="k", base_url=serve(server).url + "/v1", max_retries=0
        ) as sdk_client:
            yield sdk_client

    def test_a_completion_and_the_models(self, client: Any) -> None:
        response = client.chat.completions.create(
            model="gpt-4.1", messages=[user("Hi there")], temperature=0, max_tokens=100
        )
        assert (response.choices[0].message.content, response.choices[0].finish_reason) == (
            "Hi there",
            "stop",
        )
        assert (
            response.usage.total_tokens
            == response.usage.prompt_tokens + response.usage.completion_tokens
        )
        assert "gpt-4.1" in [model.id for model in client.models.list()]

    def test_a_stream(self, client: Any) -> None:
        settings: dict[str, Any] = {
            "model": "gpt-5.4",
            "messages": [user("one two three")],
            "stream_options": {"include_usage": True},
        }
        with client.chat.completions.stream(**settings) as stream:
            deltas = [event.delta for event in stream if event.type == "content.delta"]
            response = stream.get_final_completion()
        assert [delta for delta in deltas if delta] == ["one", " two", " three"]
        assert (response.choices[0].message.content, response.choices[0].finish_reason) == (
            "one two three",
            "stop",
        )
        assert response.usage.completion_tokens_details.reasoning_tokens > 0

    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_tool_loop_with_parallel_calls(
        self, client: Any, server: OpenAIChat, streamed: bool
    ) -> None:
        server.opening = streamed
        tools = [
            NESTED_LOOK_TOOL,
            {"type": "function", "function": NESTED_LOOK_TOOL["function"] | {"name": "find"}},
        ]

        def ask(messages: list[Any]) -> Any:
            settings: dict[str, Any] = {"model": "gpt-4.1", "messages": messages, "tools": tools}
            if not streamed:
                return client.chat.completions.create(**settings).choices[0]
            with client.chat.completions.stream(**settings) as stream:
                return stream.get_final_completion().choices[0]

        history: list[Any] = [user(CALL_BOTH_TOOLS)]
        response = ask(history)
        assert response.finish_reason == "tool_calls"
        assert [
            (call.function.name, json.loads(call.function.arguments))
            for call in response.message.tool_calls
        ] == [
            ("look", {"at": "a fox"}),
            ("find", {"at": "a fox"}),
        ]
        # The stream helper adds these fields; the API does not have them.
        excluded = {"index": True, "function": {"parsed_arguments"}}
        tool_calls = [call.model_dump(exclude=excluded) for call in response.message.tool_calls]
        history.append(
            {"role": "assistant", "tool_calls": tool_calls} if streamed else response.message
        )
        history += [
            {"role": "tool", "tool_call_id": call.id, "content": call.function.name}
            for call in response.message.tool_calls
        ]
        history.append(
            user(
                [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": URL}}]
            )
        )
        ids = [call.id for call in response.message.tool_calls]
        assert (
            ask(history).message.content
            == f"see\nresult {ids[0]}: look\nresult {ids[1]}: find\n{IMAGE_DESCRIPTION}"
        )
        with pytest.raises(openai.BadRequestError, match="did not have response messages"):
            ask([*history[:2], history[3]])

    def test_answers_are_parsed(self, client: Any, server: OpenAIChat) -> None:
        response = client.chat.completions.parse(
            model="gpt-4.1", messages=[user("mood?")], response_format=Day
        )
        assert isinstance(response.choices[0].message.parsed, Day)
        assert server.received_bodies[0]["response_format"]["json_schema"]["strict"] is True
        server.script = [Turn([refuses("I will not.")])]
        refusal_choice = client.chat.completions.parse(
            model="gpt-4.1", messages=[user("mood?")], response_format=Mood
        ).choices[0]
        assert (
            refusal_choice.message.refusal,
            refusal_choice.message.parsed,
            refusal_choice.finish_reason,
        ) == (
            "I will not.",
            None,
            "stop",
        )

    def test_errors_have_the_right_types(self, client: Any, server: OpenAIChat) -> None:
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.chat.completions.create(model="no", messages=[user("x")])
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="o3", messages=[user("x")], max_tokens=9)
        assert (caught.value.param, caught.value.code) == ("max_tokens", "unsupported_parameter")
        server.failures = [(429, "rate_limit_exceeded"), (503, "server_error")]
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="o3", messages=[user("x")])
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="o3", messages=[user("x")])

    def test_an_error_in_the_middle_of_a_stream(self, client: Any, server: OpenAIChat) -> None:
        server.break_stream, server.break_after = "error", 2
        contents: list[str] = []
        with pytest.raises(openai.APIError, match="The server had an error"):
            for chunk in client.chat.completions.create(
                model="gpt-4.1", messages=[user("one two three")], stream=True
            ):
                contents.append(chunk.choices[0].delta.content)
        assert contents == ["", "one", " two"]

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_the_async_client(
        self, server: OpenAIChat, serve: Callable[[Handler], Loopback]
    ) -> None:
        async with openai.AsyncOpenAI(api_key="k", base_url=serve(server).url + "/v1") as client:
            settings: dict[str, Any] = {"model": "gpt-4.1", "messages": [user("a b")]}
            assert (await client.chat.completions.create(**settings, n=2)).choices[
                1
            ].message.content == "a b"
            async with client.chat.completions.stream(**settings) as stream:
                assert (await stream.get_final_completion()).choices[0].message.content == "a b"


class TestResponses:
    @pytest.fixture
    def server(self) -> OpenAIResponses:
        return OpenAIResponses()

    @pytest.fixture
    def client(
        self, server: OpenAIResponses, serve: Callable[[Handler], Loopback]
    ) -> Iterator[Any]:
        with openai.OpenAI(
            api_key="k", base_url=serve(server).url + "/v1", max_retries=0
        ) as sdk_client:
            yield sdk_client

    def test_a_stored_response_is_continued_retrieved_and_deleted(self, client: Any) -> None:
        response = client.responses.create(
            model="gpt-4.1", input="Hi there", instructions="Be short."
        )
        assert (response.output_text, response.status, response.error) == (
            "Hi there",
            "completed",
            None,
        )
        assert client.responses.retrieve(response.id).output_text == "Hi there"
        assert (
            client.responses.create(
                model="gpt-4.1", input="and?", previous_response_id=response.id
            ).output_text
            == "and?"
        )
        client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response.id)

    def test_a_stream(self, client: Any, server: OpenAIResponses) -> None:
        server.script = [Turn([thinks("first", "then"), says("one two")])]
        with client.responses.stream(
            model="gpt-5.4", input="Hi", reasoning={"summary": "auto"}
        ) as stream:
            events = list(stream)
            response = stream.get_final_response()
        assert [event.sequence_number for event in events] == list(range(len(events)))
        kinds = [event.type for event in events]
        assert (
            kinds[:2] == ["response.created", "response.in_progress"]
            and kinds[-1] == "response.completed"
        )
        assert [event.delta for event in events if event.type == "response.output_text.delta"] == [
            "one",
            " two",
        ]
        assert [part.text for part in response.output[0].summary] == ["first", "then"]

    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_tool_loop_without_stored_responses(self, client: Any, streamed: bool) -> None:
        def ask(items: list[Any]) -> Any:
            settings: dict[str, Any] = {
                "model": "o3",
                "input": items,
                "tools": [LOOK_TOOL, FIND_TOOL],
                "store": False,
                "include": [ENCRYPTED],
            }
            if not streamed:
                return client.responses.create(**settings)
            with client.responses.stream(**settings) as stream:
                return stream.get_final_response()

        history: list[Any] = [user(CALL_BOTH_TOOLS)]
        response = ask(history)
        assert [item.type for item in response.output] == [
            "reasoning",
            "function_call",
            "function_call",
        ]
        history += response.output
        output = [
            {"type": "input_text", "text": "this"},
            {"type": "input_image", "detail": "auto", "image_url": URL},
        ]
        history += [
            {"type": "function_call_output", "call_id": item.call_id, "output": output}
            for item in response.output[1:]
        ]
        assert f"this {IMAGE_DESCRIPTION}" in ask(history).output_text
        with pytest.raises(openai.BadRequestError, match="without its required 'reasoning' item"):
            ask([history[0], *history[2:]])
        with pytest.raises(openai.BadRequestError, match="without its required following item"):
            ask([*history[:2], user("x")])

    def test_unstored_items_cannot_be_referenced(self, client: Any) -> None:
        response = client.responses.create(model="o3", input="Hi", store=False)
        with pytest.raises(openai.NotFoundError, match="Items are not persisted"):
            client.responses.create(model="o3", input=[*response.output, user("x")], store=False)
        with pytest.raises(openai.BadRequestError, match="not found"):
            client.responses.create(model="o3", input="x", previous_response_id=response.id)
        stored = client.responses.create(model="o3", input="Hi")
        assert (
            client.responses.create(model="o3", input=[*stored.output, user("x")]).output_text
            == "x"
        )

    def test_answers_are_parsed(self, client: Any, server: OpenAIResponses) -> None:
        assert isinstance(
            client.responses.parse(model="gpt-4.1", input="mood?", text_format=Day).output_parsed,
            Day,
        )
        tool = openai.pydantic_function_tool(Mood, name="feel")["function"]
        response = client.responses.parse(
            model="gpt-4.1",
            input='feel {"word": "well", "score": 1}',
            tools=[{"type": "function", **tool}],
        )
        assert response.output[0].parsed_arguments == {"word": "well", "score": 1}
        server.script = [Turn([refuses("I will not.")])]
        assert (
            client.responses.parse(model="gpt-4.1", input="x", text_format=Mood)
            .output[0]
            .content[0]
            .refusal
            == "I will not."
        )

    def test_images_are_generated_and_edited(self, client: Any, server: OpenAIResponses) -> None:
        tool = {"type": "image_generation", "partial_images": 2, "size": "1536x1024"}
        with client.responses.stream(model="gpt-5.4", input="a fox", tools=[tool]) as stream:
            drafts = [
                event.partial_image_b64
                for event in stream
                if event.type == "response.image_generation_call.partial_image"
            ]
            response = stream.get_final_response()
        assert [pixel(open_base64_image(draft)) for draft in drafts] == [
            color("a fox", partial=0),
            color("a fox", partial=1),
        ]
        generated = next(item for item in response.output if item.type == "image_generation_call")
        assert pixel(open_base64_image(generated.result)) == color("a fox")
        second = client.responses.create(
            model="gpt-5.4",
            input=[{"type": "image_generation_call", "id": generated.id}, user("a hat")],
            tools=[{"type": "image_generation"}],
        )
        edited = next(item for item in second.output if item.type == "image_generation_call")
        assert pixel(open_base64_image(edited.result)) == color(
            "a hat", [fingerprint(open_base64_image(generated.result))]
        )
        assert (edited.action, edited.revised_prompt) == ("edit", "In detail: a hat")

    def test_incomplete_and_failed_responses(self, client: Any, server: OpenAIResponses) -> None:
        response = client.responses.create(
            model="gpt-4.1", input="word " * 20, max_output_tokens=16
        )
        assert (
            response.status,
            response.incomplete_details.reason,
            response.usage.output_tokens,
        ) == (
            "incomplete",
            "max_output_tokens",
            16,
        )
        server.script = [
            Turn([], "failed"),
            Turn([calls("look"), generates("x")], "content_filter"),
        ]
        failed = client.responses.create(model="gpt-4.1", input="x")
        assert (failed.status, failed.error.code) == ("failed", "server_error")
        assert (
            client.responses.create(model="gpt-4.1", input="x").incomplete_details.reason
            == "content_filter"
        )

    def test_errors_have_the_right_types(self, client: Any, server: OpenAIResponses) -> None:
        with pytest.raises(openai.BadRequestError, match="does not exist") as caught:
            client.responses.create(model="no", input="x")
        assert (caught.value.param, caught.value.code) == ("model", "model_not_found")
        server.break_stream = "error"
        with client.responses.create(model="gpt-4.1", input="a b", stream=True) as events:
            *_, last = events
        assert (last.type, last.code) == ("error", "server_error")
        server.break_stream = "wrapped"
        with (
            client.responses.create(model="gpt-4.1", input="a b", stream=True) as events,
            pytest.raises(openai.APIError, match="had an error"),
        ):
            list(events)
        server.break_stream = "failed"
        with client.responses.create(model="gpt-4.1", input="a b", stream=True) as events:
            assert list(events)[-1].response.error.code == "server_error"

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_the_async_client(
        self, server: OpenAIResponses, serve: Callable[[Handler], Loopback]
    ) -> None:
        async with openai.AsyncOpenAI(api_key="k", base_url=serve(server).url + "/v1") as client:
            assert (
                await client.responses.create(model="gpt-4.1", input="a b")
            ).output_text == "a b"
            async with client.responses.stream(model="gpt-4.1", input="a b") as stream:
                assert (await stream.get_final_response()).output_text == "a b"
