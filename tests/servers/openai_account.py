"""What OpenAI's two chat APIs share: the account with its models and files, HTTP, and a scripted model that answers in both."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.servers.anthropic import _filled
from tests.servers.http_helpers import Gate, route
from tests.servers.openai_images import Refused
from tests.servers.openai_shapes import objects
from tests.support.loopback import Peer, Seen

Json = dict[str, Any]
CREATED = 1_780_000_000


@dataclass(frozen=True)
class Model:
    """`efforts` of a model that reasons; `roles` that it does not take (chat completions only)."""

    efforts: Sequence[str] = ()
    roles: Sequence[str] = ()

    def reasons(self, effort: str | None) -> bool:
        """Whether reasoning is active with this effort."""
        return bool(self.efforts) and effort != "none"


@dataclass
class Turn:
    """One scripted answer: items as `says`, `calls`, `thinks`, `refuses`, `draws` and `searches` make them, in order.

    `finish` is "length", "content_filter", or "failed" (Responses only: status failed with HTTP 200); `usage` stands in place of what was
    counted.
    """

    items: list[Json]
    finish: str | None = None
    usage: Json = field(default_factory=dict)


def says(text: str, **more: Any) -> Json:
    return {"type": "message", "text": text, **more}


def refuses(text: str) -> Json:
    return {"type": "message", "refusal": text}


def thinks(*texts: str) -> Json:
    """A thought, of which each text is a part of the summary."""
    return {"type": "reasoning", "text": " ".join(texts), "parts": list(texts)}


def calls(name: str, arguments: Any = None, **more: Any) -> Json:
    """A call; arguments that are text go as they are."""
    return {
        "type": "function_call",
        "name": name,
        "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments or {}),
        **more,
    }


def draws(prompt: str) -> Json:
    return {"type": "image_generation_call", "prompt": prompt}


def searches(query: str) -> Json:
    """A search of the web, by the tool that the service hosts."""
    return {"type": "web_search_call", "query": query}


class Left(Exception):
    """The client has gone, or is to be dropped."""


@dataclass
class Wish:
    """What a legal request asks of the model: what it showed last, what it offers, and how the answer has to be."""

    model: str
    said: list[str] = field(default_factory=list)
    sights: list[str] = field(default_factory=list)
    answered: bool = False  # what was shown last are answers of tools
    tools: list[str] = field(default_factory=list)
    choice: str = "auto"  # none, auto, required, or the name of a tool
    parallel: bool = True
    schema: Any = None
    most: int | None = None
    stops: list[str] = field(default_factory=list)
    reasons: bool = False
    draws: bool = False
    tokens: int = 1

    def calls(self, text: str) -> list[Json]:
        """A call of each tool that the text names, with the JSON objects in the text in turn; a forced one if none is named."""
        if not self.tools or self.choice == "none" or (self.answered and self.choice == "auto"):
            return []
        named = [
            name for name in self.tools if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)
        ]
        if self.choice != "auto":
            named = [self.choice] if self.choice in self.tools else named or self.tools[:1]
        found = objects(text) or [{}]
        made = [calls(name, found[min(index, len(found) - 1)]) for index, name in enumerate(named)]
        return made if self.parallel else made[:1]


class Speech(Gate):
    """A handler for `serve()`; the key is "k". `seen` lists the parsed bodies of all POSTs with a good key, legal or not.

    Knobs: `script` (a `Turn` for each next legal request; without one `ruled` answers), `models`, `files` (id to bytes), `failures` (each
    next request takes a (status, code), or (status, code, headers)), `largest` (bytes of a body), and `hold()`/`release()`, before a
    whole answer or a stream's first delta. Of streams: `break_stream` ("error"; "cut" for a clean end; "drop") after `break_after` deltas.
    """

    path = ""

    def __init__(self, key: str = "k") -> None:
        super().__init__()
        self.key = key
        self.models: dict[str, Model] = {
            "gpt-4.1": Model(),
            "gpt-5.4": Model(("none", "low", "medium", "high", "xhigh")),
            "o3": Model(("low", "medium", "high")),
            "o1-mini": Model(("low", "medium", "high"), roles=("developer", "system")),
        }
        self.files: dict[str, bytes] = {}
        self.script: list[Turn] = []
        self.seen: list[Any] = []
        self.failures: list[tuple[Any, ...]] = []
        self.largest = 64 << 20
        self.break_stream = ""
        self.break_after = 1
        self._numbers = 0

    def __call__(self, peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            headers = {"x-request-id": f"req_{self.number():08x}", "openai-version": "2020-10-01"}
            try:
                answer = self._answer(peer, seen, headers)
            except Left:
                return
            except Refused as refused:
                peer.reply({"error": refused.error}, refused.status, headers)
                continue
            if answer is not None:
                peer.reply(answer, headers=headers)

    def number(self) -> int:
        with self._changed:
            self._numbers += 1
            return self._numbers

    def named(self, prefix: str) -> str:
        return f"{prefix}_{self.number():024d}"

    def _answer(self, peer: Peer, seen: Seen, headers: dict[str, str]) -> Json | None:
        """The whole answer; None when it was streamed."""
        path, _ = route(seen)
        kind, _, given = seen.headers.get("authorization", "").partition(" ")
        if kind != "Bearer" or given != self.key:
            raise Refused(
                "Incorrect API key provided." if given else "You didn't provide an API key.",
                "invalid_api_key",
                status=401,
            )
        if seen.method == "GET" and path == "/v1/models":
            listed = [
                {"id": name, "object": "model", "created": CREATED, "owned_by": "openai"}
                for name in self.models
            ]
            return {"object": "list", "data": listed}
        if seen.method != "POST" or path != self.path:
            return self.other(seen.method, path)
        if len(seen.body) > self.largest:
            raise Refused("Request body is too large.", "request_too_large", status=413)
        if not seen.headers.get("content-type", "").startswith("application/json"):
            raise Refused("Unsupported content type.", "unsupported_content_type")
        try:
            body = seen.json
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Refused("We could not parse the JSON body of your request.", None)
        with self._changed:
            self.seen.append(body)
            failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            headers |= failure[2] if len(failure) > 2 else {}
            kinds = {
                "rate_limit_exceeded": "requests",
                "insufficient_quota": "insufficient_quota",
                "server_error": "server_error",
            }
            raise Refused(
                f"This is a {failure[1]}.",
                failure[1],
                None,
                failure[0],
                kinds.get(failure[1], "invalid_request_error"),
            )
        return self.answer(peer, body, headers)

    def other(self, method: str, path: str) -> Json:
        """Further routes of an API."""
        raise Refused(f"Invalid URL ({method} {path})", None, status=404)

    def answer(self, peer: Peer, body: Json, headers: dict[str, str]) -> Json | None:
        raise NotImplementedError

    def turn(self, wish: Wish) -> Turn:
        with self._changed:
            if self.script:
                return self.script.pop(0)
        return ruled(wish)

    def waited(self, peer: Peer) -> None:
        if not self._wait(peer):
            raise Left


def ruled(wish: Wish) -> Turn:
    """Without a script: call the tools named in the last text, or draw, or fill the schema, or tell what was shown last."""
    text = "\n".join(wish.said)
    items = [thinks(f"I think about: {text}")] if wish.reasons else []
    if made := wish.calls(text):
        return Turn([*items, *made])
    if wish.draws and not wish.answered:
        return Turn([*items, draws(text), says("")])
    if wish.schema is not None:
        return Turn([*items, says(json.dumps(_filled(wish.schema, wish.schema)))])
    text = "\n".join([*wish.said, *wish.sights]) or "nothing"
    cuts = [text.find(stop) for stop in wish.stops if stop in text]
    text = text[: min(cuts)] if cuts else text
    words = pieces(text)
    if wish.most is not None and len(words) > wish.most:
        return Turn([*items, says("".join(words[: wish.most]))], "length")
    return Turn([*items, says(text)])


def pieces(text: str) -> list[str]:
    """A text in words, each with the blanks before it."""
    return re.findall(r"\s*\S+\s*$|\s*\S+|\s+", text)


def sliced(text: str, size: int = 7) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def count(items: list[Json], kind: str | None = None) -> int:
    """The tokens of these items, a word a token."""
    texts = [item for item in items if kind is None or item["type"] == kind]
    return sum(
        len(str(item.get("text") or item.get("refusal") or item.get("arguments", "")).split())
        for item in texts
    )
