"""What is measured, in which unit, against whom, and the figure to reach."""

from dataclasses import dataclass, field

EVERYONE = ("raw", "httpx", "openai", "ollama", "majordomo", "majordomo-fast")
NO_OLLAMA = tuple(peer for peer in EVERYONE if peer != "ollama")


@dataclass(frozen=True)
class Goal:
    """At most `ratio` times the CPU of `peer`; at most `peak` times the pictures' bytes in memory."""

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
    plain: Goal
    fast: Goal
    picture_bytes: int = 0  # what the peak is divided by
    against: tuple[str, str] = field(default=("openai", "raw"))

    def goal(self, peer):
        return {"majordomo": self.plain, "majordomo-fast": self.fast}.get(peer)


def _same(goal):
    return {"plain": goal, "fast": goal}


PICTURES = 8 * 1024 * 1024
SCENARIOS = {
    "import": Scenario("import (raw: import asyncio)", "import", EVERYONE, **_same(Goal(1.2, "raw"))),
    "first-reply": Scenario("import, provider built, first reply", "start", EVERYONE, **_same(Goal(0.45))),
    "image-model": Scenario(
        "a picture model in a fresh interpreter (httpx: import httpx, pydantic)",
        "start",
        ("httpx", "majordomo", "majordomo-fast"),
        **_same(Goal(1.3, "httpx")),
        against=("httpx", "raw"),
    ),
    "reply": Scenario("one chat reply", "call", EVERYONE, Goal(0.35), Goal(0.33)),
    "stream": Scenario("SSE stream, one event in each HTTP chunk", "delta", NO_OLLAMA, Goal(0.13), Goal(0.11)),
    "stream-coalesced": Scenario("SSE stream, many events in each HTTP chunk", "delta", NO_OLLAMA, Goal(0.13), Goal(0.11)),
    "stream-live": Scenario("SSE live, one event a millisecond", "delta", NO_OLLAMA, Goal(0.55), Goal(1.6, "raw")),
    "ndjson": Scenario(
        "NDJSON stream",
        "delta",
        ("raw", "httpx", "ollama", "majordomo", "majordomo-fast"),
        Goal(0.6, "ollama"),
        Goal(0.3, "ollama"),
        against=("ollama", "raw"),
    ),
    "hundred": Scenario("1,000 replies, 100 at a time, 50 ms latency", "call", EVERYONE, **_same(Goal(0.3))),
    "cold": Scenario("1,000 at once, cold, 50 ms latency", "call", EVERYONE, **_same(Goal(0.3))),
    "warm": Scenario("1,000 at once, warm, 50 ms latency", "call", EVERYONE, **_same(Goal(0.15))),
    "picture": Scenario("8 MB picture as base64", "picture", NO_OLLAMA, Goal(0.4, peak=1.1), Goal(0.2, peak=1.1), PICTURES),
    "turn": Scenario("chat turn with 4 x 2 MB pictures", "turn", EVERYONE, Goal(0.36, peak=0.1), Goal(0.15, peak=0.1), PICTURES),
}
