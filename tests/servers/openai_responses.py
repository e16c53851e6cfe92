"""A strict server of OpenAI's Responses API, streaming and not, as in `openai-responses.md`.

It checks items, ids and reasoning.

server = OpenAIResponses()
url = serve(server).url + "/v1"      # the key is "k"
server.script = [
    Turn([thinks("Hm"), calls("look", {"at": "a fox"})]),
    Turn([generates("a fox"), says("")]),
]
...
assert server.received_bodies[-1]["store"] is False

Not implemented: background, conversations, audio, and hosted tools other than image generation
and web search.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Any

from tests.servers.hashed_images import (
    Color,
    b64,
    decode_image,
    encode_image,
    hash_color,
    solid_image,
)
from tests.servers.openai_account import CREATED, ClientLeft, Json, OpenAIServer, Turn, count_tokens
from tests.servers.openai_images import Refused
from tests.servers.openai_responses_events import Events
from tests.servers.openai_responses_input import Known, Stored
from tests.servers.openai_responses_request import Request
from tests.support.loopback import Peer

STATES = {
    None: "completed",
    "length": "incomplete",
    "content_filter": "incomplete",
    "failed": "failed",
}


def color(prompt: str, images: list[str] | None = None, partial: int | None = None) -> Color:
    """Return the color of an image of this prompt, or of its partial image.

    `images` are the `fingerprint()`s of the images that it was edited from.
    """
    return hash_color({"prompt": prompt, "images": images or [], "partial": partial})


class OpenAIResponses(OpenAIServer):
    """A handler for `serve()`; `OpenAIServer` documents the common settings.

    Further settings:

    * `break_stream` may also be "failed" (the event response.failed) and "wrapped" (an error
      inside `error`, as some gateways send it).
    * `sentinel`: end a stream with [DONE].
    * `reversed_lines`: send the data before the event name, as other servers were observed to do.
    * `strange`: add unknown events to a stream.

    `known` has all items that the server returned by id, `reasoning_ids` the reasoning id of each
    encrypted content, and `stored` the responses that were kept.
    """

    path = "/v1/responses"

    def __init__(self, key: str = "k") -> None:
        super().__init__(key)
        self.known: dict[str, Known] = {}
        self.reasoning_ids: dict[str, str] = {}
        self.stored: dict[str, Stored] = {}
        self.sentinel = self.reversed_lines = self.strange = False

    def other_route(self, method: str, path: str) -> Json:
        """Return or delete a stored response."""
        response_id = path.removeprefix("/v1/responses/")
        if method not in ("GET", "DELETE") or response_id == path:
            return super().other_route(method, path)
        if response_id not in self.stored:
            raise Refused(f"Response with id '{response_id}' not found.", None, status=404)
        if method == "GET":
            return self.stored[response_id].response
        del self.stored[response_id]
        return {"id": response_id, "object": "response", "deleted": True}

    def respond(self, peer: Peer, body: Json, headers: dict[str, str]) -> Json | None:
        """Answer a request for a response; None when it was streamed."""
        request = Request(self, body)
        turn = self.next_turn(request.model_input)
        response = self._response(request, turn)
        if body.get("stream"):
            peer.begin(headers=headers | {"content-type": "text/event-stream; charset=utf-8"})
            stream = Events(self, request, response, self._partial_images(request, response))
            for event in stream.before():
                peer.chunk(event)
            self.wait_for_release(peer)
            for event in stream.after():
                peer.chunk(event)
            if self.break_stream == "drop":
                raise ClientLeft
            peer.end()
            return None
        self.wait_for_release(peer)
        return response

    def _response(self, request: Request, turn: Turn) -> Json:
        body, store = request.body, request.body.get("store", True)
        output = [self._item(item, request, turn) for item in turn.items]
        for index, item in enumerate(output):
            previous = output[index - 1] if index else {}
            reasoning_id = previous["id"] if previous.get("type") == "reasoning" else ""
            self.known[item["id"]] = Known(
                item, store, reasoning_id, output[index + 1] if index + 1 < len(output) else None
            )
        status = STATES[turn.finish]
        reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
        failure = {"code": "server_error", "message": "The model failed to generate a response."}
        response = {
            "id": self.new_id("resp"),
            "object": "response",
            "created_at": CREATED,
            "status": status,
            "background": False,
            "error": failure if status == "failed" else None,
            "incomplete_details": {"reason": reasons[str(turn.finish)]}
            if status == "incomplete"
            else None,
            "instructions": body.get("instructions"),
            "max_output_tokens": body.get("max_output_tokens"),
            "model": f"{body['model']}-2026-08-01",
            "output": output,
            "parallel_tool_calls": request.model_input.parallel_calls,
            "previous_response_id": body.get("previous_response_id"),
            "reasoning": {"effort": None, "summary": None} | body.get("reasoning", {}),
            "store": store,
            "temperature": body.get("temperature", 1.0),
            "text": {"format": {"type": "text"}} | body.get("text", {}),
            "tool_choice": body.get("tool_choice", "auto"),
            "tools": body.get("tools", []),
            "top_p": body.get("top_p", 1.0),
            "truncation": body.get("truncation", "disabled"),
            "usage": _usage(request, turn),
            "metadata": body.get("metadata", {}),
        }
        if status == "completed":
            response["completed_at"] = CREATED + 1
        if store:
            self.stored[response["id"]] = Stored(response, [*request.input.items, *output])
        return response

    def _item(self, item: Json, request: Request, turn: Turn) -> Json:
        """Return a scripted item in the form of the output."""
        item_type = item["type"]
        status = "completed" if turn.finish in (None, "failed") else "incomplete"
        if item_type == "reasoning":
            output_item: Json = {"id": self.new_id("rs"), "type": item_type}
            output_item["summary"] = [
                {"type": "summary_text", "text": text}
                for text in item["parts"]
                if request.has_summaries
            ]
            if request.encrypted:
                output_item["encrypted_content"] = b64(
                    f"sealed {output_item['id']}: {item['text']}".encode()
                )
                self.reasoning_ids[output_item["encrypted_content"]] = output_item["id"]
            return output_item
        if item_type == "function_call":
            output_item = {
                "id": self.new_id("fc"),
                "type": item_type,
                "status": status,
                "call_id": item.get("id") or f"call_{self.next_number():019d}",
            }
            return output_item | {"name": item["name"], "arguments": item["arguments"]}
        if item_type == "image_generation_call":
            return self._image(item["prompt"], request)
        if item_type == "web_search_call":
            return {
                "id": self.new_id("ws"),
                "type": item_type,
                "status": status,
                "action": {"type": "search", "query": item["query"]},
            }
        part = {
            "type": "output_text",
            "annotations": [],
            "logprobs": [],
            "text": item.get("text", ""),
        }
        if "refusal" in item:
            part = {"type": "refusal", "refusal": item["refusal"]}
        output_item = {
            "id": self.new_id("msg"),
            "type": item_type,
            "status": status,
            "role": "assistant",
            "content": [part],
        }
        return output_item | ({"phase": item["phase"]} if "phase" in item else {})

    def _image(self, prompt: str, request: Request) -> Json:
        """Return an image item with a single color.

        The color for the same prompt is a different one when the image is an edit.
        """
        tool = request.image_tool or {}
        image_format = tool.get("output_format", "png")
        settings = {"quality": "high", "size": "1024x1024", "background": "opaque"}
        effective = {
            name: default if tool.get(name, "auto") == "auto" else tool[name]
            for name, default in settings.items()
        }
        images = request.input.images if tool.get("action") != "generate" else []
        # A sixteenth of the requested size keeps the tests fast.
        width, height = (int(side) // 16 for side in effective["size"].split("x"))
        image = encode_image(solid_image(color(prompt, images), (width, height)), image_format)
        item = {
            "id": self.new_id("ig"),
            "type": "image_generation_call",
            "status": "completed",
            "result": b64(image),
        }
        return (
            item
            | {
                "revised_prompt": f"In detail: {prompt}",
                "output_format": image_format,
                "action": "edit" if images else "generate",
            }
            | effective
        )

    def _partial_images(self, request: Request, response: Json) -> list[str]:
        """Return the partial images of a stream, in base64."""
        number_of_images = (request.image_tool or {}).get("partial_images", 0)
        generated = [item for item in response["output"] if item["type"] == "image_generation_call"]
        if not generated:
            return []
        final: Any = decode_image(b64decode(generated[0]["result"]))
        prompt = generated[0]["revised_prompt"].removeprefix("In detail: ")
        images = request.input.images
        return [
            b64(encode_image(solid_image(color(prompt, images, number), final.size)))
            for number in range(number_of_images)
        ]


def _usage(request: Request, turn: Turn) -> Json:
    """Return predictable token counts: every word is one token.

    The input and output counts include the cached and the reasoning tokens.
    """
    output_tokens = max(1, count_tokens(turn.items))
    reasoning_tokens = count_tokens(turn.items, "reasoning")
    counts: Json = {
        "input_tokens": request.model_input.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output_tokens,
    }
    counts |= {
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": request.model_input.prompt_tokens + output_tokens,
    }
    return counts | turn.usage
