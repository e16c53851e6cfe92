"""What is measured, in which unit, against whom, and the figure to reach."""

from dataclasses import dataclass, field

OURS = ("majordomo", "majordomo-fast")
CHAT = ("raw", "httpx", "openai", "ollama", "anthropic", "litellm", "pydantic-ai", "any-llm", *OURS)
IMAGE_TOOLS = ("pillow", "opencv", "pyvips", *OURS)
ITSELF = "itself"  # the same peer doing the same work without what the row measures


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
    image_bytes: int = 0  # what the peak is divided by
    against: tuple[str, str] = field(default=("openai", "raw"))
    left_out: str = ""  # who is not here, and why

    def goal(self, peer):
        return {"majordomo": self.plain, "majordomo-fast": self.fast}.get(peer)


def _same(goal):
    return {"plain": goal, "fast": goal}


def _without(*names):
    return tuple(peer for peer in CHAT if peer not in names)


IMAGES = 8 * 1024 * 1024
NO_OLLAMA = "ollama: another protocol, see ndjson"
FEW_STREAM = ("ollama", "anthropic", "litellm", "pydantic-ai", "any-llm")
BY_HAND = "the others have no line; openai and raw wait at an asyncio.Semaphore"
SCENARIOS = {
    "import": Scenario("import (raw: import asyncio)", "import", CHAT, **_same(Goal(1.2, "raw"))),
    "first-reply": Scenario(
        "import, provider built, first reply", "start", CHAT, **_same(Goal(0.45))
    ),
    "image-model": Scenario(
        "an image model in a fresh interpreter (httpx: import httpx, pydantic)",
        "start",
        ("httpx", *OURS),
        **_same(Goal(1.3, "httpx")),
        against=("httpx", "raw"),
    ),
    "reply": Scenario("one chat reply", "call", CHAT, Goal(0.35), Goal(0.33)),
    "stream": Scenario(
        "SSE stream, one event in each HTTP chunk",
        "delta",
        _without("ollama"),
        Goal(0.13),
        Goal(0.11),
        left_out=NO_OLLAMA,
    ),
    "stream-coalesced": Scenario(
        "SSE stream, many events in each HTTP chunk",
        "delta",
        _without(*FEW_STREAM),
        Goal(0.13),
        Goal(0.11),
    ),
    "stream-live": Scenario(
        "SSE live, one event a millisecond",
        "delta",
        _without(*FEW_STREAM),
        Goal(0.55),
        Goal(1.6, "raw"),
    ),
    "ndjson": Scenario(
        "NDJSON stream",
        "delta",
        ("raw", "httpx", "ollama", *OURS),
        Goal(0.6, "ollama"),
        Goal(0.3, "ollama"),
        against=("ollama", "raw"),
        left_out="the others: they do not speak Ollama's protocol",
    ),
    "hundred": Scenario(
        "1,000 replies, 100 at a time, 50 ms latency", "call", CHAT, **_same(Goal(0.3))
    ),
    "cold": Scenario("1,000 at once, cold, 50 ms latency", "call", CHAT, **_same(Goal(0.3))),
    "warm": Scenario("1,000 at once, warm, 50 ms latency", "call", CHAT, **_same(Goal(0.15))),
    "image": Scenario(
        "8 MB image as base64",
        "image",
        _without(*FEW_STREAM),
        Goal(0.4, peak=1.1),
        Goal(0.2, peak=1.1),
        IMAGES,
        left_out="ollama, anthropic, pydantic-ai, any-llm: no image call of their own; litellm: openai's, decoded by hand",
    ),
    "turn": Scenario(
        "chat turn with 4 x 2 MB images",
        "turn",
        CHAT,
        Goal(0.36, peak=0.1),
        Goal(0.15, peak=0.1),
        IMAGES,
    ),
    "conversation": Scenario(
        "200 messages, 20 of them with an image of 64 KB, sent once more each turn",
        "call",
        ("raw", "openai", *OURS),
        image_bytes=20 * 64 * 1024,
        left_out="the others: as openai, below their own cost of a reply",
    ),
    "tool-loop": Scenario(
        "one tool, 10 answers of the model",
        "answer",
        ("raw", "openai", "pydantic-ai", *OURS),
        left_out="the others have no loop; openai and raw are written by hand",
    ),
    "chain": Scenario(
        "a reply through a chain of two",
        "call",
        OURS,
        against=(ITSELF, "raw"),
        left_out="the others: no chain in the same package",
    ),
    "gate": Scenario(
        "1,000 callers at a line with 4 places, 5 ms latency",
        "caller",
        ("raw", "openai", *OURS),
        against=("openai", ITSELF),
        left_out=BY_HAND,
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
        "thumbnail, web and cleaned original of 50 images of 384 x 384",
        "image",
        ("pillow", *OURS),
        against=("pillow", ITSELF),
        left_out="opencv, pyvips: no such set; pillow is written by hand, in one thread",
    ),
}
MOST_DISTRIBUTIONS = 13  # ourselves included
MOST_MEGABYTES = 16  # everything but Pillow
