"""A fake chat and image server with prepared replies, so that only the client is measured.

It prints its port and serves until its standard input ends. The name of the model selects the
reply: `latency-50` waits 50 ms, `live` streams one event per millisecond, `coalesced` puts many
events into one HTTP chunk, `short` streams few events, `held` sends the first of as many and the
others after a request to `/release`, `tools` calls a tool until it has received enough results,
`small` generates a small image; any other model is anthropic_reply at once.
"""

import asyncio
import base64
import json
import re
import sys

from clients.agreed import ANSWER, DELTAS, HELD_DELTAS, IMAGE_BYTES, LIVE_DELTAS, QUESTION, TURNS
from clients.png import made_up_png

MODEL = re.compile(rb'"model"\s*:\s*"([^"]*)"')
STREAM = re.compile(rb'"stream"\s*:\s*true')
TOOL_RESULT = re.compile(rb'"role"\s*:\s*"tool"')
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
# Bytes of a body that are kept at each end: enough to find the name of the model.
KEPT_BYTES = 4096
BATCH = 64 * 1024
LAST_CHUNK = b"0\r\n\r\n"


def http_response(body, kind=b"application/json", status=b"200 OK"):
    return (
        b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n" % (status, kind, len(body))
        + body
    )


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def stream_head(kind):
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncache-control: no-cache\r\n"
        b"transfer-encoding: chunked\r\n\r\n" % kind
    )


def batched(parts, size):
    """Join the bytes into fewer, larger parts."""
    buffer = bytearray()
    for part in parts:
        buffer += part
        if len(buffer) >= size:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def completion(finish="stop", **message):
    message = {"role": "assistant", "content": ANSWER, "refusal": None} | message
    return encoded(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1700000000,
            "model": "m",
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
            ],
            "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
        }
    )


def tool_calling(number):
    function = {"name": "shout", "arguments": encoded({"text": QUESTION}).decode()}
    return completion(
        "tool_calls",
        content=None,
        tool_calls=[{"id": f"call_{number}", "type": "function", "function": function}],
    )


def completion_events(count):
    def event(delta, finish=None):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        head = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": "m",
        }
        return b"data: %s\n\n" % encoded(head | {"choices": [choice]})

    words = [event({"content": f" word{number}"}) for number in range(count)]
    return [
        event({"role": "assistant", "content": ""}),
        *words,
        event({}, "stop"),
        b"data: [DONE]\n\n",
    ]


def anthropic_message(content, **more):
    usage = {"input_tokens": 9, "output_tokens": 3}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": content,
        "usage": usage,
    }
    return message | {"stop_reason": None, "stop_sequence": None} | more


def anthropic_events(count):
    def event(kind, **more):
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), encoded({"type": kind} | more))

    yield event("message_start", message=anthropic_message([]))
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for number in range(count):
        yield event(
            "content_block_delta", index=0, delta={"type": "text_delta", "text": f" word{number}"}
        )
    yield event("content_block_stop", index=0)
    yield event(
        "message_delta",
        delta={"stop_reason": "end_turn", "stop_sequence": None},
        usage={"output_tokens": 3},
    )
    yield event("message_stop")


def ollama_reply(content=ANSWER, done=True):
    reply = {
        "model": "m",
        "created_at": "2026-01-01T00:00:00.000000Z",
        "message": {"role": "assistant", "content": content},
        "done": done,
    }
    if done:
        reply |= {
            "done_reason": "stop",
            "total_duration": 5000000,
            "prompt_eval_count": 9,
            "eval_count": 3,
        }
    return encoded(reply)


def ollama_lines(count):
    return [ollama_reply(f" word{number}", done=False) + b"\n" for number in range(count)] + [
        ollama_reply("") + b"\n"
    ]


def image_reply(size):
    text = base64.b64encode(made_up_png(size)).decode()
    return encoded({"created": 1700000000, "data": [{"b64_json": text}], "output_format": "png"})


def encoded(value):
    return json.dumps(value, separators=(",", ":")).encode()


class Replies:
    """All replies as bytes; a stream is a list of parts."""

    def __init__(self):
        events, lines = completion_events(DELTAS), ollama_lines(DELTAS)
        self.chat = http_response(completion())
        self.tool_calls = [http_response(tool_calling(number)) for number in range(1, TURNS)]
        anthropic_reply = anthropic_message(
            [{"type": "text", "text": ANSWER}], stop_reason="end_turn"
        )
        self.anthropic = http_response(encoded(anthropic_reply))
        self.ollama = http_response(ollama_reply())
        self.models = http_response(
            encoded(
                {
                    "object": "list",
                    "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "test"}],
                }
            )
        )
        self.image = http_response(image_reply(IMAGE_BYTES))
        self.small_image = http_response(image_reply(1024))
        self.not_found = http_response(b'{"error":{"message":"not here"}}', status=b"404 Not Found")
        self.length_required = http_response(b"", status=b"411 Length Required")
        self.sse_head = stream_head(b"text/event-stream")
        self.sse = list(batched(map(chunk, events), BATCH))
        self.sse_burst = [chunk(b"".join(events))]
        self.sse_coalesced = [chunk(part) for part in batched(events, BATCH // 4)]
        self.sse_live = [chunk(event) for event in completion_events(LIVE_DELTAS)]
        self.sse_held = [chunk(event) for event in completion_events(HELD_DELTAS)]
        anthropic_stream = list(anthropic_events(DELTAS))
        self.sse_anthropic = list(batched(map(chunk, anthropic_stream), BATCH))
        self.sse_anthropic_coalesced = [
            chunk(part) for part in batched(anthropic_stream, BATCH // 4)
        ]
        self.sse_anthropic_live = [chunk(event) for event in anthropic_events(LIVE_DELTAS)]
        self.ndjson_head = stream_head(b"application/x-ndjson")
        self.ndjson_burst = [chunk(b"".join(lines))]
        self.ndjson = list(batched(map(chunk, lines), BATCH))


class Connection(asyncio.Protocol):
    def __init__(self, replies, unfinished):
        self._replies = replies
        # Connections with an unfinished stream of the model `held`.
        self._waiting = unfinished
        self._received_head = b""
        # The path of the request whose body is still arriving.
        self._path = None
        self._missing = 0
        self._body = bytearray()

    def connection_made(self, transport):
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data):
        if self._path is None:
            data = self._received_head + data
            head, blank, data = data.partition(b"\r\n\r\n")
            if not blank:
                self._received_head = head
                return
            self._received_head = b""
            self._path = head.split(b" ", 2)[1]
            length = LENGTH.search(head)
            if length is None and not head.startswith(b"GET"):
                self._transport.write(self._replies.length_required)
                self._transport.close()
                return
            self._missing = int(length[1]) if length else 0
        self._missing -= len(data)
        self._body += data
        if len(self._body) > 16 * KEPT_BYTES:
            del self._body[KEPT_BYTES:-KEPT_BYTES]
        if self._missing <= 0:
            self._answer(self._path, bytes(self._body))
            self._path = None
            self._body.clear()

    def _answer(self, path, body):
        found = MODEL.search(body)
        model = found[1] if found else b""
        if model.startswith(b"latency-"):
            self._loop.call_later(int(model[8:]) / 1000, self._write, path, body, model)
        else:
            self._write(path, body, model)

    def _write(self, path, body, model):
        replies = self._replies
        streams = STREAM.search(body) is not None
        if path == b"/v1/chat/completions" and model == b"held":
            self._transport.writelines([replies.sse_head, *replies.sse_held[:2]])
            self._waiting.append(self._transport)
        elif path == b"/v1/chat/completions" and model == b"short":
            self._stream(replies.sse_head, replies.sse_held)
        elif path == b"/v1/chat/completions" and streams and model == b"burst":
            self._stream(replies.sse_head, replies.sse_burst)
        elif path == b"/v1/chat/completions" and streams:
            self._events(model, replies.sse, replies.sse_coalesced, replies.sse_live)
        elif path == b"/v1/chat/completions" and model == b"tools":
            results = len(TOOL_RESULT.findall(body))
            self._transport.write(
                replies.tool_calls[results] if results < len(replies.tool_calls) else replies.chat
            )
        elif path == b"/v1/chat/completions":
            self._transport.write(replies.chat)
        elif path == b"/v1/messages" and streams:
            self._events(
                model,
                replies.sse_anthropic,
                replies.sse_anthropic_coalesced,
                replies.sse_anthropic_live,
            )
        elif path == b"/v1/messages":
            self._transport.write(replies.anthropic)
        elif path == b"/v1/images/generations":
            self._transport.write(replies.small_image if model == b"small" else replies.image)
        elif path == b"/api/chat" and not re.search(rb'"stream"\s*:\s*false', body):
            self._stream(
                replies.ndjson_head,
                replies.ndjson_burst if model == b"burst" else replies.ndjson,
            )
        elif path == b"/api/chat":
            self._transport.write(replies.ollama)
        elif path == b"/v1/models":
            self._transport.write(replies.models)
        elif path == b"/release":
            self._transport.write(replies.chat)
            self._release(list(self._waiting), iter(replies.sse_held[2:]))
            self._waiting.clear()
        else:
            self._transport.write(replies.not_found)

    def _events(self, model, plain, coalesced, live):
        if model == b"live":
            self._transport.write(self._replies.sse_head)
            self._live(iter(live), self._loop.time())
        else:
            self._stream(self._replies.sse_head, coalesced if model == b"coalesced" else plain)

    def _release(self, transports, parts):
        """Send one event to each stream in turn, so that few arrive together."""
        part = next(parts, None)
        for transport in transports:
            transport.write(part or LAST_CHUNK)
        if part:
            self._loop.call_soon(self._release, transports, parts)

    def _stream(self, head, parts):
        self._transport.write(head)
        for part in parts:
            self._transport.write(part)
        self._transport.write(LAST_CHUNK)

    def _live(self, parts, due):
        part = next(parts, None)
        self._transport.write(part or LAST_CHUNK)
        if part and not self._transport.is_closing():
            due += 0.001
            self._loop.call_at(due, self._live, parts, due)


async def serve():
    replies = Replies()
    loop = asyncio.get_running_loop()
    unfinished = []
    server = await loop.create_server(
        lambda: Connection(replies, unfinished), "127.0.0.1", 0, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve())
