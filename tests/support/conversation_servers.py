"""Servers that reply with a script, each in its own dialect: one conversation for every provider.

`BACKENDS` has an entry for every chat provider. Most use a strict server; `OpenAIShaped` only
checks the order of messages and that images are images.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

import majordomo as md
from majordomo import llm
from tests.servers import anthropic, gemini_chat, ollama_chat
from tests.servers import openai_account as openai_speech
from tests.servers.openai_account import OpenAIServer, Turn
from tests.servers.openai_chat import OpenAIChat
from tests.servers.openai_responses import OpenAIResponses
from tests.support.chat_dialects import data_events, named_events
from tests.support.loopback import Handler, Peer

Json = dict[str, Any]
# The assistant's messages, in order.
Script = Sequence[llm.Message]
THOUGHT = "Let me see."


def _calls(message: llm.Message) -> list[llm.ToolCallPart]:
    return [part for part in message.parts if isinstance(part, llm.ToolCallPart)]


def _anthropic(script: Script, thinks: bool) -> Handler:
    server = anthropic.Anthropic()
    for message in script:
        content: list[Json] = [{"type": "thinking", "thinking": THOUGHT}] if thinks else []
        content += [{"type": "text", "text": message.text}] if message.text else []
        content += [
            {"type": "tool_use", "name": call.name, "input": call.arguments}
            for call in _calls(message)
        ]
        server.script.append(anthropic.Turn(content))
    return server


def _gemini(script: Script, thinks: bool) -> Handler:
    server = gemini_chat.GeminiChat()
    for message in script:
        parts: list[Json] = [{"text": THOUGHT, "thought": True}] if thinks else []
        parts += [{"text": message.text}] if message.text else []
        parts += [
            {"functionCall": {"name": call.name, "args": call.arguments}}
            for call in _calls(message)
        ]
        server.script.append(gemini_chat.Turn(parts))
    return server


def _ollama(script: Script, thinks: bool) -> Handler:
    server = ollama_chat.OllamaChat()
    for message in script:
        calls = [{"name": call.name, "arguments": call.arguments} for call in _calls(message)]
        server.script.append(ollama_chat.Reply(message.text, THOUGHT if thinks else "", calls))
    return server


def _openai(kind: type[OpenAIServer]) -> Callable[[Script, bool], Handler]:
    def make_server(script: Script, thinks: bool) -> Handler:
        server = kind()
        for message in script:
            items = [openai_speech.thinks(THOUGHT)] if thinks else []
            items += [openai_speech.says(message.text)] if message.text else []
            server.script.append(
                Turn(
                    [
                        *items,
                        *(
                            openai_speech.calls(call.name, call.arguments_json)
                            for call in _calls(message)
                        ),
                    ]
                )
            )
        return server

    return make_server


class _Refused(Exception):
    pass


class OpenAIShaped:
    """A server of chat completions and Responses, complete and streamed, on one address."""

    def __init__(self, script: Script, thinks: bool) -> None:
        self.script = list(script)
        self.thinks = thinks
        self._numbers = 0

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.method == "GET":
                peer.reply({"running": []})
                continue
            chat = request.path.endswith("/chat/completions")
            try:
                body = request.json
                _check_chat(body) if chat else _check_responses(body)
                message = self.script.pop(0)
            except (_Refused, KeyError, IndexError, ValueError, TypeError) as error:
                peer.reply(
                    {
                        "error": {
                            "message": f"{type(error).__name__}: {error}",
                            "type": "invalid_request_error",
                        }
                    },
                    400,
                )
                continue
            complete, stream = (self._chat if chat else self._responses)(message)
            if body.get("stream"):
                peer.begin()
                peer.chunk(stream)
                peer.end()
            else:
                peer.reply(complete)

    def _id(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}_{self._numbers}"

    def _chat(self, reply: llm.Message) -> tuple[Json, bytes]:
        calls = [
            {
                "id": self._id("call"),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_json},
            }
            for call in _calls(reply)
        ]
        message: Json = {"role": "assistant", "content": reply.text or None, "refusal": None}
        message |= {"reasoning_content": THOUGHT} if self.thinks else {}
        message |= {"tool_calls": calls} if calls else {}
        reason = "tool_calls" if calls else "stop"
        head = {"id": self._id("chatcmpl"), "created": 1, "model": "m"}

        def chunk(delta: Json, finish: str | None = None) -> Json:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return head | {"object": "chat.completion.chunk", "choices": [choice]}

        deltas = [
            {"role": "assistant", "content": ""},
            *([{"reasoning_content": THOUGHT}] if self.thinks else []),
        ]
        deltas += [{"content": word} for word in reply.text.split(" ", 1)[:1] if word]
        deltas += [{"content": " " + rest} for rest in reply.text.split(" ", 1)[1:]]
        deltas += [{"tool_calls": [{"index": index, **call}]} for index, call in enumerate(calls)]
        stream = data_events(*(chunk(piece) for piece in deltas), chunk({}, reason), "[DONE]")
        return head | {
            "choices": [{"index": 0, "message": message, "finish_reason": reason}]
        }, stream

    def _responses(self, reply: llm.Message) -> tuple[Json, bytes]:
        output: list[Json] = []
        if self.thinks:
            summary = [{"type": "summary_text", "text": THOUGHT}]
            output.append(
                {
                    "type": "reasoning",
                    "id": self._id("rs"),
                    "summary": summary,
                    "encrypted_content": "enc",
                }
            )
        if reply.text:
            content = [{"type": "output_text", "text": reply.text, "annotations": []}]
            output.append(
                {
                    "type": "message",
                    "id": self._id("msg"),
                    "role": "assistant",
                    "status": "completed",
                    "content": content,
                }
            )
        for call in _calls(reply):
            function_call = {
                "type": "function_call",
                "id": self._id("fc"),
                "call_id": self._id("call"),
                "name": call.name,
            }
            output.append(function_call | {"arguments": call.arguments_json})
        complete = {
            "id": self._id("resp"),
            "object": "response",
            "status": "completed",
            "model": "m",
            "error": None,
            "output": output,
        }
        events: list[Json] = []
        for index, item in enumerate(output):
            opened = (
                item
                | {
                    "message": {"content": []},
                    "function_call": {"arguments": ""},
                    "reasoning": {"summary": []},
                }[item["type"]]
            )
            events.append(
                {"type": "response.output_item.added", "output_index": index, "item": opened}
            )
            if item["type"] == "message":
                events.append(
                    {
                        "type": "response.output_text.delta",
                        "output_index": index,
                        "content_index": 0,
                        "delta": reply.text,
                    }
                )
            events.append(
                {"type": "response.output_item.done", "output_index": index, "item": item}
            )
        return complete, named_events(*events, {"type": "response.completed", "response": complete})


def _check_image(url: str) -> None:
    head, _, text = url.partition(",")
    if head != "data:image/png;base64":
        raise _Refused(f"{head[:40]} is no image")
    Image.open(io.BytesIO(base64.b64decode(text, validate=True))).load()


def _check_chat(body: Json) -> None:
    waiting: set[str] = set()
    for message in body["messages"]:
        role, content = message["role"], message.get("content")
        if role == "tool":
            waiting.remove(message["tool_call_id"])
            if not isinstance(content, str):
                raise _Refused("tool messages hold text")
            continue
        if waiting:
            raise _Refused("tool calls without an answer")
        if role == "assistant":
            waiting = {call["id"] for call in message.get("tool_calls", ())}
            if not waiting and not isinstance(content, str):
                raise _Refused("content may be missing with tool_calls only")
        for part in content if isinstance(content, list) else ():
            if part["type"] == "image_url":
                _check_image(part["image_url"]["url"])
    if waiting:
        raise _Refused("tool calls without an answer")


def _check_responses(body: Json) -> None:
    waiting: set[str] = set()
    thought = False
    for item in body["input"]:
        kind = item.get("type", "message")
        if kind == "function_call_output":
            waiting.remove(item["call_id"])
            content = item["output"]
        elif kind == "function_call":
            waiting.add(item["call_id"])
            json.loads(item["arguments"])
            content = ""
        elif kind == "reasoning":
            thought = True
            continue
        else:
            if waiting:
                raise _Refused("no tool output found")
            content = item["content"]
        if thought and kind != "function_call" and item.get("role") != "assistant":
            raise _Refused("a reasoning item without its following item")
        thought = False
        for part in content if isinstance(content, list) else ():
            if part["type"] == "input_image":
                _check_image(part["image_url"])
    if waiting or thought:
        raise _Refused("the input ends in the middle of a step")


@dataclass(frozen=True)
class Backend:
    """A chat backend and its server.

    `server(script, thinks)` makes a server that replies with the script, `connect(url)` the
    provider for it.
    """

    name: str
    server: Callable[[Script, bool], Handler]
    connect: Callable[[str], Any]
    model: str = "m"
    # "reasoning text is never returned" by OpenAI's chat completions
    shows_thoughts: bool = True


BACKENDS = [
    Backend(
        "openai",
        _openai(OpenAIResponses),
        lambda url: md.OpenAI("k", base_url=url + "/v1", api="responses"),
        "gpt-5.4",
    ),
    Backend(
        "openai chat",
        _openai(OpenAIChat),
        lambda url: md.OpenAI("k", base_url=url + "/v1", api="chat"),
        "gpt-5.4",
        shows_thoughts=False,
    ),
    Backend(
        "openaicompatible", OpenAIShaped, lambda url: md.OpenAICompatible(url + "/v1", api_key="k")
    ),
    Backend("llamaswap", OpenAIShaped, lambda url: md.LlamaSwap(url, api_key="k")),
    Backend("ollama", _ollama, lambda url: md.Ollama(url), "qwen3-vl"),
    Backend(
        "anthropic",
        _anthropic,
        lambda url: md.Anthropic("k", base_url=url + "/v1"),
        "claude-sonnet-4-5",
    ),
    Backend(
        "anthropic 2026",
        _anthropic,
        lambda url: md.Anthropic("k", base_url=url + "/v1", version="2026-10-21"),
        "claude-opus-4-8",
    ),
    Backend(
        "gemini",
        _gemini,
        lambda url: md.Gemini("k", base_url=url + "/v1beta"),
        "gemini-3-flash-preview",
    ),
    Backend(
        "gemini 2.5",
        _gemini,
        lambda url: md.Gemini("k", base_url=url + "/v1beta"),
        "gemini-2.5-flash",
    ),
]
