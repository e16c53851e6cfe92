"""Google's own SDK against the chat test server.

The server accepts what the SDK sends, and the SDK understands what the server returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers.gemini_chat import GeminiChat, Turn
from tests.servers.hashed_images import b64
from tests.servers.plain_client import open_base64_image, pixel, png
from tests.servers.vendor_sdks import require
from tests.support.loopback import Handler, Loopback

genai = require("google.genai")
errors, types = genai.errors, genai.types

OLD, NEW, IMAGE_MODEL = "gemini-2.5-flash", "gemini-3-flash-preview", "gemini-3-pro-image-preview"


@pytest.fixture
def server() -> GeminiChat:
    return GeminiChat()


@pytest.fixture
def client(
    server: GeminiChat, serve: Callable[[Handler], Loopback], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI"):
        monkeypatch.delenv(name, raising=False)
    with genai.Client(
        api_key="k",
        http_options=types.HttpOptions(base_url=serve(server).url, api_version="v1beta"),
    ) as sdk_client:
        yield sdk_client


def tools(description: str = "The weather of a city.") -> Any:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    declaration = types.FunctionDeclaration(
        name="weather", description=description, parameters_json_schema=schema
    )
    return [types.Tool(function_declarations=[declaration])]


class TestText:
    def test_text_is_answered(self, client: Any, server: GeminiChat) -> None:
        config = types.GenerateContentConfig(
            system_instruction="Be brief.", temperature=0.5, top_k=3, seed=1, stop_sequences=["x"]
        )
        response = client.models.generate_content(model=OLD, contents="hello there", config=config)
        assert (response.text, response.candidates[0].finish_reason) == (
            "You said: hello there",
            types.FinishReason.STOP,
        )
        assert (
            response.usage_metadata.prompt_token_count,
            response.usage_metadata.total_token_count,
        ) == (2, 6)
        assert server.received_bodies[0]["systemInstruction"]["parts"] == [{"text": "Be brief."}]

    def test_a_stream_is_read_with_signature_and_usage(self, client: Any) -> None:
        response = list(client.models.generate_content_stream(model=NEW, contents="hello there"))
        assert "".join(chunk.text or "" for chunk in response) == "You said: hello there"
        assert response[-1].candidates[0].content.parts[0].thought_signature
        assert (
            response[0].usage_metadata.prompt_token_count,
            response[-1].usage_metadata.prompt_token_count,
        ) == (92, 2)

    def test_thoughts_are_marked(self, client: Any) -> None:
        config = types.GenerateContentConfig(
            thinking_config=types.ThinkingConfig(include_thoughts=True, thinking_level="LOW")
        )
        response = client.models.generate_content(model=NEW, contents="x", config=config)
        thought, text_part = response.candidates[0].content.parts
        assert (thought.thought, thought.text, text_part.thought) == (True, "I think.", None)
        assert response.usage_metadata.thoughts_token_count == 2

    def test_answers_match_the_schema(self, client: Any) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        for kind in ("response_schema", "response_json_schema"):
            config = types.GenerateContentConfig(
                response_mime_type="application/json", **{kind: schema}
            )
            assert client.models.generate_content(
                model=OLD, contents="x", config=config
            ).parsed == {"n": 1}

    def test_an_input_image(self, client: Any) -> None:
        part = types.Part.from_bytes(data=png(), mime_type="image/png")
        assert (
            client.models.generate_content(model=OLD, contents=["see", part]).text
            == "You said: see 64x48 #0a141e"
        )

    def test_blocked_and_stopped_answers(self, client: Any, server: GeminiChat) -> None:
        server.script = [Turn(blocked="SAFETY"), Turn(finish="SAFETY")]
        response = client.models.generate_content(model=OLD, contents="x")
        assert (response.candidates, response.prompt_feedback.block_reason) == (
            None,
            types.BlockedReason.SAFETY,
        )
        response = client.models.generate_content(model=OLD, contents="x")
        assert (response.text, response.candidates[0].finish_reason) == (
            None,
            types.FinishReason.SAFETY,
        )


class TestTools:
    @pytest.mark.parametrize("model", [OLD, NEW])
    def test_a_chat_with_a_tool(self, client: Any, server: GeminiChat, model: str) -> None:
        chat = client.chats.create(model=model, config=types.GenerateContentConfig(tools=tools()))
        response = chat.send_message('weather {"city": "Rome"}')
        [call] = response.function_calls
        assert (call.name, call.args, call.id) == ("weather", {"city": "Rome"}, None)
        response = chat.send_message(
            types.Part.from_function_response(name="weather", response={"result": "sun"})
        )
        assert response.text.endswith('weather={"result": "sun"}')
        assert chat.send_message("thanks").text == "You said: thanks"

    def test_a_python_function_is_called(self, client: Any) -> None:
        def weather(city: str) -> str:
            """The weather of a city."""
            return "sun in " + city

        response = client.models.generate_content(
            model=NEW,
            contents='weather {"city": "Rome"}',
            config=types.GenerateContentConfig(tools=[weather]),
        )
        assert response.text.endswith('weather={"result": "sun in Rome"}')

    def test_a_streamed_chat_with_a_tool(self, client: Any) -> None:
        chat = client.chats.create(model=NEW, config=types.GenerateContentConfig(tools=tools()))
        calls = [
            call
            for chunk in chat.send_message_stream("weather")
            for call in chunk.function_calls or []
        ]
        assert [call.name for call in calls] == ["weather"]
        answer = types.Part.from_function_response(name="weather", response={"result": "sun"})
        assert "sun" in "".join(chunk.text or "" for chunk in chat.send_message_stream(answer))

    def test_a_call_needs_its_signature(self, client: Any) -> None:
        turns = [
            types.UserContent("weather"),
            types.ModelContent(types.Part.from_function_call(name="weather", args={})),
            types.UserContent(types.Part.from_function_response(name="weather", response={})),
        ]
        with pytest.raises(errors.ClientError, match="missing a thought_signature"):
            client.models.generate_content(model=NEW, contents=turns)
        turns[1].parts[0].thought_signature = b"skip_thought_signature_validator"
        assert client.models.generate_content(model=NEW, contents=turns).text


class TestImages:
    def test_images_are_generated_and_edited(self, client: Any, server: GeminiChat) -> None:
        server.drafts = 1
        chat = client.chats.create(
            model=IMAGE_MODEL,
            config=types.GenerateContentConfig(response_modalities=["TEXT", "IMAGE"]),
        )
        draft, text_part, image = chat.send_message("a fox").candidates[0].content.parts
        assert (draft.thought, text_part.text, image.inline_data.mime_type) == (
            True,
            "Here is your image.",
            "image/png",
        )
        assert pixel(open_base64_image(b64(draft.inline_data.data))) != pixel(
            open_base64_image(b64(image.inline_data.data))
        )
        assert chat.send_message("a hat").candidates[0].content.parts[2].inline_data.data


class TestRoutes:
    def test_embeddings_have_the_requested_dimensions(self, client: Any) -> None:
        config = types.EmbedContentConfig(task_type="RETRIEVAL_QUERY", output_dimensionality=4)
        response = client.models.embed_content(
            model="gemini-embedding-001", contents=["a", "b"], config=config
        )
        assert [len(embedding.values) for embedding in response.embeddings] == [4, 4]
        assert response.embeddings[0].values != response.embeddings[1].values

    def test_models_are_listed(self, client: Any) -> None:
        assert "models/" + NEW in [model.name for model in client.models.list()]

    def test_errors_have_the_right_types(self, client: Any, server: GeminiChat) -> None:
        server.failures = ["RESOURCE_EXHAUSTED", "UNAVAILABLE"]
        with pytest.raises(errors.ClientError) as limited:
            client.models.generate_content(model=OLD, contents="x")
        assert (limited.value.code, limited.value.status) == (429, "RESOURCE_EXHAUSTED")
        with pytest.raises(errors.ServerError):
            client.models.generate_content(model=OLD, contents="x")
        with pytest.raises(errors.ClientError) as unknown:
            client.models.generate_content(model="gemini-9", contents="x")
        assert unknown.value.code == 404

    @pytest.mark.parametrize("broken", ["error", "bare"])
    def test_a_broken_stream_raises(self, client: Any, server: GeminiChat, broken: str) -> None:
        server.script = [Turn([{"text": "Hello."}], broken=broken)]
        stream = client.models.generate_content_stream(model=OLD, contents="x")
        assert next(stream).text == "Hel"
        with pytest.raises(errors.APIError) as caught:
            list(stream)
        assert caught.value.code == 500
