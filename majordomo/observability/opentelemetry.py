"""Spans and metrics by the OpenTelemetry semantic conventions for generative AI.

OpenTelemetry is imported when an observer is created, so that this module can be imported without
the extra `otel`. The attribute names are literals here, because those in OpenTelemetry's own
package are deprecated and move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from majordomo import imagegen
from majordomo.errors import ConfigurationError, MajordomoError
from majordomo.observability.observer import (
    Call,
    CallEvent,
    CallResult,
    FirstToken,
    Observer,
    RetryAttempt,
)
from majordomo.requests.base import declaration

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

OPERATIONS = {"chat": "chat", "image": "generate_content", "embed": "embeddings"}
# Providers that have another name in the conventions.
PROVIDER_NAMES = {"gemini": "gcp.gemini"}
REQUEST_ATTRIBUTES = {
    name: f"majordomo.image.{name}"
    for name, field in declaration(imagegen.Request).fields.items()
    if field.observed == "value"
} | {
    **{
        name: f"gen_ai.request.{name}"
        for name in ("temperature", "top_p", "top_k", "seed", "max_tokens")
    },
    "stop": "gen_ai.request.stop_sequences",
    "n": "gen_ai.request.choice.count",
}
# The bucket boundaries that the conventions recommend.
TOKEN_BUCKETS = tuple(4**power for power in range(14))
SECONDS_BUCKETS = tuple(0.01 * 2**power for power in range(14))


class OpenTelemetryObserver(Observer):
    """An observer that records a client span for each call, and metrics of tokens and durations.

    The span is a child of the span that is current where the call is made. Content is never
    recorded. A retry is an event of the span. A cancelled call has the attribute
    `majordomo.cancelled` and no error.

    Args:
        tracer_provider: The tracer provider; the global one by default.
        meter_provider: The meter provider; the global one by default.

    Raises:
        ConfigurationError: The extra `otel` is not installed (code MISSING_EXTRA).
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        try:
            from opentelemetry import metrics, trace
        except ImportError:
            raise ConfigurationError(
                "OpenTelemetryObserver needs an extra: pip install 'majordomo-client[otel]'",
                code="MISSING_EXTRA",
            ) from None
        self._trace = trace
        self._tracer = trace.get_tracer("majordomo", tracer_provider=tracer_provider)
        meter = metrics.get_meter("majordomo", meter_provider=meter_provider)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens read and written",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self._durations = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "How long calls take",
            explicit_bucket_boundaries_advisory=SECONDS_BUCKETS,
        )
        self._spans: dict[str, Span] = {}

    def on_start(self, call: Call) -> None:
        """Start the span."""
        settings = {
            key: _as_attribute(call.settings[name])
            for name, key in REQUEST_ATTRIBUTES.items()
            if name in call.settings
        }
        outputs = {"image": "image", "chat": "json" if call.settings.get("output") else "text"}
        if kind := outputs.get(call.operation):
            settings["gen_ai.output.type"] = kind
        name = f"{OPERATIONS[call.operation]} {call.model}"
        self._spans[call.id] = self._tracer.start_span(
            name,
            kind=self._trace.SpanKind.CLIENT,
            attributes={**_common_attributes(call), **settings},
        )

    def on_retry(self, call: Call, attempt: RetryAttempt) -> None:
        """Add an event to the span."""
        attributes: dict[str, Any] = {
            "error.type": attempt.error.code,
            "majordomo.retry.number": attempt.number,
            "majordomo.retry.wait": attempt.delay,
        }
        self._spans[call.id].add_event("majordomo.retry", attributes)

    def on_event(self, call: Call, event: CallEvent) -> None:
        """Add an event to the span for the first token."""
        if isinstance(event, FirstToken):
            self._spans[call.id].add_event("majordomo.first_token")

    def on_success(self, call: Call, outcome: CallResult) -> None:
        """End the span and record the metrics."""
        span = self._spans.pop(call.id)
        counts = {"input": outcome.usage.input_tokens, "output": outcome.usage.output_tokens}
        attributes: dict[str, Any] = {
            f"gen_ai.usage.{kind}_tokens": count
            for kind, count in counts.items()
            if count is not None
        }
        if outcome.model:
            attributes["gen_ai.response.model"] = outcome.model
        if outcome.finish_reason:
            attributes["gen_ai.response.finish_reasons"] = [outcome.finish_reason]
        if outcome.images:
            attributes["majordomo.image.count"] = outcome.images
        span.set_attributes(attributes)
        span.end()
        dimensions = _common_attributes(call)
        if outcome.model:
            dimensions["gen_ai.response.model"] = outcome.model
        self._durations.record(outcome.seconds, dimensions)
        for kind, count in counts.items():
            if count is not None:
                self._tokens.record(count, {**dimensions, "gen_ai.token.type": kind})

    def on_error(self, call: Call, error: MajordomoError) -> None:
        """End the span with an error and record the duration."""
        span = self._spans.pop(call.id)
        span.set_attribute("error.type", error.code)
        span.set_status(self._trace.StatusCode.ERROR)
        span.end()
        dimensions = {**_common_attributes(call), "error.type": error.code}
        self._durations.record(call.elapsed(), dimensions)

    def on_cancel(self, call: Call) -> None:
        """End the span, marked as cancelled."""
        span = self._spans.pop(call.id)
        span.set_attribute("majordomo.cancelled", True)
        span.end()


def _common_attributes(call: Call) -> dict[str, Any]:
    """Return the attributes that spans and metrics share."""
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": OPERATIONS[call.operation],
        "gen_ai.provider.name": PROVIDER_NAMES.get(call.provider, call.provider),
        "gen_ai.request.model": call.model,
    }
    if call.address:
        parts = urlsplit(call.address)
        attributes["server.address"] = parts.hostname
        attributes["server.port"] = parts.port or (443 if parts.scheme == "https" else 80)
    return attributes


def _as_attribute(value: Any) -> Any:
    """Return a value in a type that attributes support."""
    return list(value) if isinstance(value, tuple) else value
