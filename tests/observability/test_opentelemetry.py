"""Spans and metrics as an exporter receives them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import majordomo as md
from majordomo import llm
from majordomo.observability.opentelemetry import OpenTelemetryObserver
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    http_response,
    reply_with,
)

Serve = Callable[[Handler], Loopback]
QUICK = md.Retries(initial_delay=0.001)


@dataclass
class Telemetry:
    observer: OpenTelemetryObserver
    tracers: TracerProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    @property
    def span(self) -> ReadableSpan:
        [span] = self.exporter.get_finished_spans()
        return span

    def points(self, name: str) -> list[Any]:
        data: Any = self.reader.get_metrics_data()
        metrics = [
            metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return [
            point for metric in metrics if metric.name == name for point in metric.data.data_points
        ]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    yield Telemetry(OpenTelemetryObserver(tracers, meters), tracers, exporter, reader)
    tracers.shutdown()
    meters.shutdown()


def server_attributes(server: Loopback) -> dict[str, Any]:
    return {"server.address": "127.0.0.1", "server.port": server.port}


@pytest.mark.anyio
async def test_a_chat_call_is_a_client_span(serve: Serve, telemetry: Telemetry) -> None:
    server = serve(reply_with(http_response(chat_completion("secret text"))))
    settings = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "seed": 1,
        "max_tokens": 9,
        "stop": ["\n"],
    }
    async with md.OpenAICompatible(server.url + "/v1", observers=[telemetry.observer]) as provider:
        await provider.model("m").generate("more secret text", **settings)
    span = telemetry.span
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openaicompatible",
        "gen_ai.request.model": "m",
        **server_attributes(server),
    }
    assert (span.name, span.kind, span.status.status_code) == (
        "chat m",
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    assert dict(span.attributes or {}) == {
        **attributes,
        "gen_ai.output.type": "text",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 7,
        "gen_ai.request.seed": 1,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.stop_sequences": ("\n",),
        "gen_ai.response.model": "m-2026",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2,
    }
    metric_attributes = {**attributes, "gen_ai.response.model": "m-2026"}
    points = {
        dict(point.attributes)["gen_ai.token.type"]: point
        for point in telemetry.points("gen_ai.client.token.usage")
    }
    assert {kind: point.sum for kind, point in points.items()} == {"input": 3, "output": 2}
    assert dict(points["input"].attributes) == {**metric_attributes, "gen_ai.token.type": "input"}
    assert points["input"].explicit_bounds[:3] == (1, 4, 16)
    [duration] = telemetry.points("gen_ai.client.operation.duration")
    assert (dict(duration.attributes), duration.count, duration.explicit_bounds[0]) == (
        metric_attributes,
        1,
        0.01,
    )


@pytest.mark.anyio
async def test_an_image_call_is_a_generate_content_span(telemetry: Telemetry) -> None:
    image_model = md.Offline(observers=[telemetry.observer]).image_model("renderer")
    await image_model.generate(
        "a fox", n=2, size="64x64", steps=1, sampler="euler_a", cfg_scale=4.5, output_format="webp"
    )
    span = telemetry.span
    assert span.name == "generate_content renderer"
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "offline",
        "gen_ai.request.model": "renderer",
        "gen_ai.output.type": "image",
        "gen_ai.request.choice.count": 2,
        "majordomo.image.size": "64x64",
        "majordomo.image.steps": 1,
        "majordomo.image.sampler": "euler_a",
        "majordomo.image.cfg_scale": 4.5,
        "majordomo.image.output_format": "webp",
        "majordomo.image.count": 2,
        "gen_ai.response.model": "renderer",
    }
    assert telemetry.points("gen_ai.client.token.usage") == [], "no tokens are reported"


@pytest.mark.anyio
async def test_embeddings_have_no_output_type(serve: Serve, telemetry: Telemetry) -> None:
    server = serve(
        reply_with(http_response({"data": [{"embedding": [1]}], "usage": {"prompt_tokens": 7}}))
    )
    async with md.OpenAI("k", base_url=server.url, observers=[telemetry.observer]) as provider:
        await provider.embedding_model("e").embed("a")
    assert telemetry.span.name == "embeddings e"
    attributes = dict(telemetry.span.attributes or {})
    assert attributes["gen_ai.operation.name"] == "embeddings"
    assert attributes["gen_ai.usage.input_tokens"] == 7
    assert "gen_ai.output.type" not in attributes
    assert "gen_ai.usage.output_tokens" not in attributes


@pytest.mark.anyio
async def test_providers_have_the_names_of_the_conventions(
    serve: Serve, telemetry: Telemetry
) -> None:
    server = serve(
        reply_with(
            http_response(
                {"candidates": [{"content": {"parts": [{"text": "{}"}]}, "finishReason": "STOP"}]}
            )
        )
    )
    async with md.Gemini("k", base_url=server.url, observers=[telemetry.observer]) as provider:
        await provider.model("gemini-3-pro").generate("hi", output={"type": "object"})
    attributes = dict(telemetry.span.attributes or {})
    assert attributes["gen_ai.provider.name"] == "gcp.gemini"
    assert attributes["gen_ai.output.type"] == "json"


@pytest.mark.anyio
async def test_an_error_has_its_code_and_retries_are_events(
    serve: Serve, telemetry: Telemetry
) -> None:
    server = serve(reply_with(http_response({"error": "secret text"}, 500)))
    async with md.OpenAICompatible(
        server.url, observers=[telemetry.observer], retries=QUICK
    ) as provider:
        with pytest.raises(md.BackendError):
            await provider.model("m").generate("hi")
    span = telemetry.span
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    attributes = dict(span.attributes or {})
    assert attributes["error.type"] == "BACKEND_FAILED"
    assert [event.name for event in span.events] == ["majordomo.retry"] * 2
    retry = dict(span.events[1].attributes or {})
    assert (retry["error.type"], retry["majordomo.retry.number"]) == ("BACKEND_FAILED", 2)
    [duration] = telemetry.points("gen_ai.client.operation.duration")
    assert dict(duration.attributes)["error.type"] == "BACKEND_FAILED"
    assert "secret" not in span.to_json()


@pytest.mark.anyio
async def test_a_cancelled_call_is_not_an_error(serve: Serve, telemetry: Telemetry) -> None:
    def silent(peer: Peer) -> None:
        peer.request()
        peer.wait_for_close()

    async with md.OpenAICompatible(serve(silent).url, observers=[telemetry.observer]) as provider:
        with anyio.move_on_after(0.05):
            await provider.model("m").generate("hi")
    attributes = dict(telemetry.span.attributes or {})
    assert attributes["majordomo.cancelled"] is True
    assert "error.type" not in attributes
    assert telemetry.span.status.status_code is StatusCode.UNSET


@pytest.mark.anyio
async def test_the_first_token_of_a_stream_is_an_event(serve: Serve, telemetry: Telemetry) -> None:
    response = http_response(
        delta("Good ") + delta("evening", "stop") + DONE,
        headers={"content-type": "text/event-stream"},
    )
    provider = md.OpenAICompatible(serve(reply_with(response)).url, observers=[telemetry.observer])
    async with provider, provider.model("m").stream("hi") as stream:
        [event async for event in stream]
    assert [event.name for event in telemetry.span.events] == ["majordomo.first_token"]


@pytest.mark.anyio
async def test_a_span_is_a_child_of_the_current_span(telemetry: Telemetry) -> None:
    model = md.Offline(observers=[telemetry.observer]).model("rules")
    tracer = telemetry.tracers.get_tracer("program")
    with tracer.start_as_current_span("job") as job:
        await model.generate("hi")
        async with model.stream("hi") as stream:
            [event async for event in stream]
    first, second, _ = telemetry.exporter.get_finished_spans()
    assert {span.parent.span_id for span in (first, second) if span.parent} == {
        job.get_span_context().span_id
    }


def test_a_blocking_call_is_a_child_of_the_current_span(telemetry: Telemetry) -> None:
    tracer = telemetry.tracers.get_tracer("program")
    with (
        tracer.start_as_current_span("job") as job,
        md.Offline(observers=[telemetry.observer]) as provider,
    ):
        provider.model("rules").generate_sync("hi")
    call = telemetry.exporter.get_finished_spans()[0]
    assert call.parent is not None
    assert call.parent.span_id == job.get_span_context().span_id


def test_ended_calls_are_not_stored(telemetry: Telemetry) -> None:
    model = md.Offline(observers=[telemetry.observer]).model("rules")
    for _ in range(3):
        model.generate_sync([llm.user("hi")])
    assert telemetry.observer._spans == {}


def test_only_this_observer_needs_the_extra() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import majordomo as md\n"
        "from majordomo.observability.logging_observer import LoggingObserver\n"
        "print(md.Offline(observers=[LoggingObserver()]).model('rules').generate_sync('hi').finish_reason)"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "stop"
