"""The results of `majordomo doctor`: plain values, ready for a terminal or for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from majordomo.backend_status import ModelInfo

Status = Literal["ready", "loading", "busy", "refused", "unreachable", "unexpected", "broken"]


@dataclass(frozen=True, slots=True)
class Hint:
    """A problem to fix, or something to know."""

    message: str
    """What is wrong and what to change."""
    fault: bool = False
    """Whether something that is configured does not work."""


@dataclass(frozen=True, slots=True)
class BackendReport:
    """The state of one backend."""

    name: str
    """The name of its table in the configuration, otherwise its kind."""
    kind: str
    """The kind of provider."""
    address: str
    """The base URL, without a key; "" when it is not known."""
    status: Status
    """One of:

    * "ready"
    * "loading": a model is being loaded right now
    * "busy": it asks to slow down
    * "refused": the key is missing or wrong
    * "unreachable"
    * "unexpected": a server answers, but not like this kind of server
    * "broken": its configuration is invalid
    """
    configured: bool
    """Whether a file or a variable names it; otherwise it is one of the default local servers."""
    server: str = ""
    """What the server calls itself; "" when it does not say."""
    latency: float | None = None
    """Seconds that the health check took; None when it failed."""
    models: tuple[ModelInfo, ...] = ()
    """The models that it lists."""
    hints: tuple[Hint, ...] = ()
    """What to fix or to know about this backend."""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """The state of everything that a configuration names."""

    source: str = ""
    """The configuration that is used; "" for none."""
    searched: tuple[str, ...] = ()
    """The paths where a configuration was searched for."""
    findings: tuple[BackendReport, ...] = ()
    """The backends."""
    hints: tuple[Hint, ...] = field(default=())
    """Hints about the configuration that concern no single backend."""

    @property
    def ok(self) -> bool:
        """Whether everything that is configured works.

        A default local server that does not run is not a fault.
        """
        hints: Sequence[Hint] = [
            *self.hints,
            *(hint for finding in self.findings for hint in finding.hints),
        ]
        return not any(hint.fault for hint in hints)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "ok": self.ok,
            "source": self.source,
            "searched": list(self.searched),
            "hints": [_hint_to_dict(hint) for hint in self.hints],
            "findings": [_finding_to_dict(finding) for finding in self.findings],
        }


def _hint_to_dict(hint: Hint) -> dict[str, Any]:
    return {"message": hint.message, "fault": hint.fault}


def _finding_to_dict(finding: BackendReport) -> dict[str, Any]:
    names = ("name", "kind", "address", "status", "configured", "server", "latency")
    values: dict[str, Any] = {name: getattr(finding, name) for name in names}
    values["models"] = [
        {
            "id": model.id,
            "capabilities": sorted(model.capabilities),
            "loaded": model.loaded,
            "state": model.state,
        }
        for model in finding.models
    ]
    return values | {"hints": [_hint_to_dict(hint) for hint in finding.hints]}
