"""Spans and metrics by the OpenTelemetry conventions for generative AI. Needs the extra `otel`; imported only where it is used.

The names are written out here: those of OpenTelemetry's own package are deprecated, and move.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from opentelemetry import metrics, trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from majordomo.errors import MajordomoError
from majordomo.observability.observer import (
    Call,
    CallEvent,
    CallResult,
    FirstToken,
    Observer,
    RetryAttempt,
)

OPERATIONS = {"chat": "chat", "image": "generate_content", "embed": "embeddings"}
PROVIDERS = {"gemini": "gcp.gemini"}  # where the conventions have another word than ours
REQUEST = {
    name: f"gen_ai.request.{name}"
    for name in ("temperature", "top_p", "top_k", "seed", "max_tokens")
} | {
    "stop": "gen_ai.request.stop_sequences",
    "n": "gen_ai.request.choice.count",
    **{
        name: f"majordomo.image.{name}"
        for name in ("size", "steps", "sampler", "scheduler", "cfg_scale", "strength", "quality")
    },
}
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)


class OpenTelemetryObserver(Observer):
    """A client span for each call, a child of the span that is current where the call is made, and two metrics: tokens and durations.

    Content is never recorded. A retry is an event of the span. A cancelled call has `majordomo.cancelled` and no error. The global
    providers are used unless others are given.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("majordomo", tracer_provider=tracer_provider)
        meter = metrics.get_meter("majordomo", meter_provider=meter_provider)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens read and written",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        self._durations = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "How long calls take",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._spans: dict[str, Span] = {}

    def on_start(self, call: Call) -> None:
        named = _named(call)
        settings = {
            key: _plain(call.settings[name])
            for name, key in REQUEST.items()
            if name in call.settings
        }
        outputs = {"image": "image", "chat": "json" if call.settings.get("output") else "text"}
        if kind := outputs.get(call.operation):
            settings["gen_ai.output.type"] = kind
        name = f"{OPERATIONS[call.operation]} {call.model}"
        self._spans[call.id] = self._tracer.start_span(
            name, kind=SpanKind.CLIENT, attributes={**named, **settings}
        )

    def on_retry(self, call: Call, attempt: RetryAttempt) -> None:
        about: dict[str, Any] = {
            "error.type": attempt.error.code,
            "majordomo.retry.number": attempt.number,
            "majordomo.retry.wait": attempt.delay,
        }
        self._spans[call.id].add_event("majordomo.retry", about)

    def on_event(self, call: Call, event: CallEvent) -> None:
        if isinstance(event, FirstToken):
            self._spans[call.id].add_event("majordomo.first_token")

    def on_success(self, call: Call, outcome: CallResult) -> None:
        span = self._spans.pop(call.id)
        counts = {"input": outcome.usage.input_tokens, "output": outcome.usage.output_tokens}
        told: dict[str, Any] = {
            f"gen_ai.usage.{kind}_tokens": count
            for kind, count in counts.items()
            if count is not None
        }
        if outcome.model:
            told["gen_ai.response.model"] = outcome.model
        if outcome.finish_reason:
            told["gen_ai.response.finish_reasons"] = [outcome.finish_reason]
        if outcome.images:
            told["majordomo.image.count"] = outcome.images
        span.set_attributes(told)
        span.end()
        named = _named(call) | ({"gen_ai.response.model": outcome.model} if outcome.model else {})
        self._durations.record(outcome.seconds, named)
        for kind, count in counts.items():
            if count is not None:
                self._tokens.record(count, {**named, "gen_ai.token.type": kind})

    def on_error(self, call: Call, error: MajordomoError) -> None:
        span = self._spans.pop(call.id)
        span.set_attribute("error.type", error.code)
        span.set_status(StatusCode.ERROR)
        span.end()
        self._durations.record(call.elapsed(), {**_named(call), "error.type": error.code})

    def on_cancel(self, call: Call) -> None:
        span = self._spans.pop(call.id)
        span.set_attribute("majordomo.cancelled", True)
        span.end()


def _named(call: Call) -> dict[str, Any]:
    """What spans and metrics both say of a call."""
    named: dict[str, Any] = {
        "gen_ai.operation.name": OPERATIONS[call.operation],
        "gen_ai.provider.name": PROVIDERS.get(call.provider, call.provider),
        "gen_ai.request.model": call.model,
    }
    if call.address:
        parts = urlsplit(call.address)
        named["server.address"] = parts.hostname
        named["server.port"] = parts.port or (443 if parts.scheme == "https" else 80)
    return named


def _plain(value: Any) -> Any:
    """A value as an attribute may have it."""
    return list(value) if isinstance(value, tuple) else value
