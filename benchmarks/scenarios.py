"""The scenarios: unit, peers, peers to compare with, and goals."""

from dataclasses import dataclass, field

OURS = ("majordomo", "majordomo-fast")
CHAT = ("raw", "httpx", "openai", "ollama", "anthropic", "litellm", "pydantic-ai", "any-llm", *OURS)
IMAGE_TOOLS = ("pillow", "opencv", "pyvips", *OURS)
# The peer doing the same work without the feature that the row measures.
ITSELF = "itself"


@dataclass(frozen=True)
class Goal:
    """At most `ratio` times the CPU of `peer`; at most `peak` times the images' bytes in memory."""

    ratio: float
    peer: str = "openai"
    peak: float | None = None

    def __str__(self):
        return f"<= {self.ratio:g} {self.peer}" + (f", peak <= {self.peak:g}" if self.peak else "")


@dataclass(frozen=True)
class Scenario:
    title: str
    unit: str
    peers: tuple[str, ...]
    plain: Goal | None = None
    fast: Goal | None = None
    # The peak is divided by this.
    image_bytes: int = 0
    against: tuple[str, str] = field(default=("openai", "raw"))
    # Peers that are not measured, with the reason.
    left_out: str = ""

    def goal(self, peer):
        return {"majordomo": self.plain, "majordomo-fast": self.fast}.get(peer)


def _same(goal):
    return {"plain": goal, "fast": goal}


def _without(*names):
    return tuple(peer for peer in CHAT if peer not in names)


IMAGE_BYTES = 8 * 1024 * 1024
OLLAMA_LEFT_OUT = "ollama: another protocol, see ndjson"
NOT_IN_STREAM_ROWS = ("ollama", "anthropic", "litellm", "pydantic-ai", "any-llm")
GATE_LEFT_OUT = "the others have no queue; openai and raw use an asyncio.Semaphore"
SCENARIOS = {
    "import": Scenario("import (raw: import asyncio)", "import", CHAT, **_same(Goal(1.2, "raw"))),
    "first-reply": Scenario(
        "import, create a provider, first reply", "start", CHAT, **_same(Goal(0.45))
    ),
    "image-model": Scenario(
        "an image model in a fresh interpreter (httpx: import httpx, pydantic)",
        "start",
        ("httpx", *OURS),
        **_same(Goal(1.3, "httpx")),
        against=("httpx", "raw"),
    ),
    "reply": Scenario("one chat reply", "call", CHAT, Goal(0.22), Goal(0.14)),
    "stream": Scenario(
        "SSE stream, one event in each HTTP chunk",
        "delta",
        _without("ollama"),
        Goal(0.13),
        Goal(0.11),
        left_out=OLLAMA_LEFT_OUT,
    ),
    "stream-coalesced": Scenario(
        "SSE stream, many events in each HTTP chunk",
        "delta",
        _without(*NOT_IN_STREAM_ROWS),
        Goal(0.13),
        Goal(0.11),
    ),
    "stream-live": Scenario(
        "SSE live, one event a millisecond",
        "delta",
        _without(*NOT_IN_STREAM_ROWS),
        Goal(0.4),
        Goal(1.6, "raw"),
    ),
    "ndjson": Scenario(
        "NDJSON stream",
        "delta",
        ("raw", "httpx", "ollama", *OURS),
        Goal(0.6, "ollama"),
        Goal(0.3, "ollama"),
        against=("ollama", "raw"),
        left_out="the others: they do not support Ollama's protocol",
    ),
    "burst": Scenario(
        "first delta of an SSE stream of 2,000 that arrive at once",
        "stream",
        ("raw", "httpx", "openai", *OURS),
        **_same(Goal(1.5, "raw")),
        left_out="the others: like openai",
    ),
    "ndjson-burst": Scenario(
        "first delta of an NDJSON stream of 2,000 that arrive at once",
        "stream",
        ("raw", "httpx", "ollama", *OURS),
        **_same(Goal(1.0, "ollama")),
        against=("ollama", "raw"),
        left_out="the others: they do not support Ollama's protocol",
    ),
    "hundred": Scenario(
        "1,000 replies, 100 at a time, 50 ms latency", "call", CHAT, Goal(0.17), Goal(0.12)
    ),
    "cold": Scenario("1,000 at once, cold, 50 ms latency", "call", CHAT, Goal(0.15), Goal(0.12)),
    "warm": Scenario("1,000 at once, warm, 50 ms latency", "call", CHAT, **_same(Goal(0.15))),
    "image": Scenario(
        "8 MB image as base64",
        "image",
        _without(*NOT_IN_STREAM_ROWS),
        Goal(0.4, peak=1.1),
        Goal(0.2, peak=1.1),
        IMAGE_BYTES,
        left_out=(
            "ollama, anthropic, pydantic-ai, any-llm: no image generation;"
            " litellm: openai's, decoded by hand"
        ),
    ),
    "turn": Scenario(
        "chat turn with 4 x 2 MB images",
        "turn",
        CHAT,
        Goal(0.36, peak=0.1),
        Goal(0.15, peak=0.1),
        IMAGE_BYTES,
    ),
    "conversation": Scenario(
        "200 messages, 20 of them with a 64 KB image, sent again with each call",
        "call",
        ("raw", "openai", *OURS),
        image_bytes=20 * 64 * 1024,
        left_out="the others: like openai, less than their own cost of a reply",
    ),
    "tool-loop": Scenario(
        "one tool, 10 replies of the model",
        "reply",
        ("raw", "openai", "pydantic-ai", *OURS),
        left_out="the others have no tool loop; those of openai and raw are written by hand",
    ),
    "chain": Scenario(
        "a reply through a chain of two",
        "call",
        OURS,
        against=(ITSELF, "raw"),
        left_out="the others: no chains in the package",
    ),
    "gate": Scenario(
        "1,000 users in a queue with 4 slots, 5 ms latency",
        "user",
        ("raw", "openai", *OURS),
        against=("openai", ITSELF),
        left_out=GATE_LEFT_OUT,
    ),
    "resize": Scenario(
        "PNG 1024 -> 512 -> JPEG, Lanczos",
        "image",
        IMAGE_TOOLS,
        **_same(Goal(2, "pyvips")),
        against=("pyvips", "opencv"),
    ),
    "resize-fast": Scenario(
        "PNG 1024 -> 512 -> JPEG, fast setting",
        "image",
        IMAGE_TOOLS,
        **_same(Goal(1.1, "opencv")),
        against=("opencv", "pyvips"),
    ),
    "strip": Scenario(
        "strip metadata from a 1024 PNG (pillow: decode and encode)",
        "image",
        ("pillow", *OURS),
        **_same(Goal(0.01, "pillow")),
        against=("pillow", ITSELF),
        left_out="opencv, pyvips: decode and encode too",
    ),
    "derive": Scenario(
        "thumbnail, web image and sanitized original of 50 images of 384 x 384",
        "image",
        ("pillow", *OURS),
        against=("pillow", ITSELF),
        left_out="opencv, pyvips: no derivatives; pillow's are written by hand, in one thread",
    ),
}
# Including majordomo itself.
MAX_DISTRIBUTIONS = 13
# Without Pillow.
MAX_MEGABYTES = 16
