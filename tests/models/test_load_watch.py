"""Loading models: every backend's free query reports them, and streams emit events meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo import llm
from majordomo.models.client import BackendCall
from majordomo.models.load_watch import LoadWatch
from tests.support.loopback import Handler, Loopback, Peer, chat_completion, delta

Serve = Callable[[Handler], Loopback]
pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def patient_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the query that follows an exceeded first-byte limit time on a slow machine too."""
    monkeypatch.setattr("majordomo.transport_types.GRACE_SECONDS", 10.0)


OLLAMA = {
    "model": "m",
    "message": {"role": "assistant", "content": "at last"},
    "done": True,
    "done_reason": "stop",
}


class Backend:
    """A backend whose replies begin once its load state has been queried `queries` times.

    The load state, at `path`, is `loading` until then and `ready` afterwards.
    """

    def __init__(self, path: str, loading: Any, ready: Any, *, queries: int = 1) -> None:
        self.path, self.loading, self.ready, self.queries = path, loading, ready, queries
        self.changed = threading.Condition()
        self.query_count = 0

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.path == self.path:
                with self.changed:
                    self.query_count += 1
                    loaded = self.query_count > self.queries
                    self.changed.notify_all()
                peer.reply(self.ready if loaded else self.loading)
                continue
            with self.changed:
                if not self.changed.wait_for(lambda: self.query_count >= self.queries, 10):
                    return
            if request.path == "/api/chat":
                peer.reply(OLLAMA)
            elif request.json.get("stream"):
                peer.begin()
                peer.chunk(delta("at last") + delta({}, "stop") + b"data: [DONE]\n\n")
                peer.end()
            else:
                peer.reply(chat_completion("at last"))


def llamaswap_backend() -> Backend:
    return Backend(
        "/running",
        {"running": [{"model": "m", "state": "starting"}]},
        {"running": [{"model": "m", "state": "ready"}]},
    )


def ollama_backend() -> Backend:
    return Backend("/api/ps", {"models": []}, {"models": [{"name": "m:latest"}]})


def llamacpp_backend() -> Backend:
    return Backend(
        "/models",
        {"data": [{"id": "m", "status": {"value": "loading"}}]},
        {"data": [{"id": "m", "status": {"value": "loaded"}}]},
    )


BACKENDS: dict[str, tuple[Callable[[], Backend], Callable[..., Any]]] = {
    "llamaswap": (llamaswap_backend, md.LlamaSwap),
    "ollama": (ollama_backend, md.Ollama),
    "llamacpp": (
        llamacpp_backend,
        lambda url, **keywords: md.OpenAICompatible(url, preset="llamacpp", **keywords),
    ),
}


@pytest.mark.parametrize("name", BACKENDS)
async def test_a_stream_reports_a_loading_model(serve: Serve, name: str) -> None:
    make_backend, connect = BACKENDS[name]
    provider = connect(serve(make_backend()).url, timeout=md.Timeout(first_byte=0.5, load=20))
    async with provider, provider.model("m").stream("x") as stream:
        events = [event async for event in stream]
    loading = [event for event in events if isinstance(event, llm.Loading)]
    assert loading, "the first byte took longer than its limit, and loading was reported"
    assert events[: len(loading)] == loading
    assert all((event.elapsed or 0) > 0 for event in loading)
    assert stream.reply.text == "at last"


@pytest.mark.parametrize("name", BACKENDS)
async def test_a_call_that_times_out_while_loading_names_the_load_phase(
    serve: Serve, name: str
) -> None:
    make_backend, connect = BACKENDS[name]
    backend = make_backend()
    backend.queries = 1_000_000
    async with connect(
        serve(backend).url, timeout=md.Timeout(first_byte=0.2, load=0.4)
    ) as provider:
        for call in (provider.model("m").generate, _streamed(provider.model("m"))):
            with anyio.fail_after(10), pytest.raises(md.DeadlineExceededError) as caught:
                await call("x")
            assert caught.value.phase == "load"


async def test_an_old_load_state_is_ignored() -> None:
    now = 0.0
    events: list[llm.Loading] = []

    async def query(call: BackendCall) -> str:
        if now:
            raise md.ConnectionFailedError("no answer")
        return "loading"

    client = md.Ollama()._client
    watch = LoadWatch(query, lambda status, model: status, lambda: now)
    for moment, phase in ((0.0, "load"), (1000.0, "first_byte"), (1000.5, "first_byte")):
        now = moment
        call = client.call(md.Timeout(), "m", emit=events.append)
        call.deadline.start_phase("first_byte")
        await watch(call)
        assert call.deadline.phase == phase
    assert len(events) == 1


def _streamed(model: llm.Model) -> Callable[[str], Any]:
    async def call(text: str) -> llm.Reply:
        async with model.stream(text) as stream:
            async for _ in stream:
                pass
        return stream.reply

    return call


async def test_a_503_while_loading_is_retried_and_reported_by_the_stream(
    serve: Serve,
) -> None:
    requests = 0

    def handler(peer: Peer) -> None:
        nonlocal requests
        while peer.request() is not None:
            requests += 1
            if requests < 3:
                peer.reply(
                    {
                        "error": {
                            "code": 503,
                            "message": "Loading model",
                            "type": "unavailable_error",
                        }
                    },
                    503,
                    {"retry-after-ms": "10"},
                )
            else:
                peer.begin()
                peer.chunk(delta("at last") + delta({}, "stop") + b"data: [DONE]\n\n")
                peer.end()

    provider = md.OpenAICompatible(serve(handler).url, retries=md.Retries(attempts=1))
    async with provider, provider.model("m").stream("x") as stream:
        events = [event async for event in stream]
    assert [type(event) for event in events] == [llm.Loading, llm.Loading, llm.TextDelta, llm.Done]


async def test_a_hosted_ollama_model_is_never_reported_as_loading(serve: Serve) -> None:
    backend = BACKENDS["ollama"][0]()
    backend.queries = 1_000_000
    async with md.Ollama(
        serve(backend).url, timeout=md.Timeout(first_byte=1.2, load=30)
    ) as provider:
        with anyio.fail_after(10), pytest.raises(md.DeadlineExceededError) as caught:
            await provider.model("gpt-oss:120b-cloud").generate("x")
    assert caught.value.phase == "first_byte"


def event(kind: str, data: Any) -> bytes:
    return (
        b"event:message\ndata:"
        + json.dumps({"type": kind, "data": json.dumps(data)}).encode()
        + b"\n\n"
    )


def feed(peer: Peer) -> None:
    """Serve llama-swap's feed: old logs, then the models, then each change.

    The feed ends here, as when llama-swap is stopped.
    """
    assert peer.request().path == "/api/events"  # type: ignore[union-attr]
    peer.begin(headers={"content-type": "text/event-stream"})
    peer.chunk(
        event("logData", {"source": "proxy", "data": "modelStatus\n\n"}) + b"data: nonsense\n\n"
    )
    for state in ("stopped", "starting", "ready"):
        message = event(
            "modelStatus",
            [{"id": "m", "state": state, "description": "small", "aliases": ["alias"]}],
        )
        peer.chunk(message[:30])
        peer.chunk(message[30:] + event("inflight", {"total": 1}))
    peer.end()


async def test_the_llamaswap_feed_yields_each_change_of_state(serve: Serve) -> None:
    states = []
    async with md.LlamaSwap(serve(feed).url) as provider, provider.changes() as changes:
        with pytest.raises(md.StreamBrokenError) as caught:
            async for models in changes:
                states.append(
                    [(model.id, model.state, model.loaded, model.description) for model in models]
                )
    assert states == [
        [("m", "stopped", False, "small")],
        [("m", "starting", False, "small")],
        [("m", "ready", True, "small")],
    ]
    assert caught.value.provider == "llamaswap"


def test_a_feed_can_be_read_synchronously_and_left_early(serve: Serve) -> None:
    server = serve(feed)
    with md.LlamaSwap(server.url) as provider, provider.changes_sync() as changes:
        assert next(changes)[0].state == "stopped"
