"""What a look at the backends gives: plain values, ready for a terminal or for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from majordomo.backend_status import ModelInfo

Status = Literal["ready", "loading", "busy", "refused", "unreachable", "strange", "broken"]


@dataclass(frozen=True, slots=True)
class Hint:
    """What to change, or to know. `fault`: something that is configured does not work as it stands."""

    message: str
    fault: bool = False


@dataclass(frozen=True, slots=True)
class BackendReport:
    """One backend.

    `status`: ready; loading (a model, right now); busy (asks to slow down); refused (the key); unreachable; strange (something answers,
    but not as this kind of server does); broken (its configuration). `name` is that of its table, else of its kind. `server` is what
    it calls itself, "" where it does not say; `latency` in seconds. `configured`: a file or a variable names it; else it is one of the
    usual local servers.
    """

    name: str
    kind: str
    address: str
    status: Status
    configured: bool
    server: str = ""
    latency: float | None = None
    models: tuple[ModelInfo, ...] = ()
    hints: tuple[Hint, ...] = ()


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """`source` is the configuration that counts, "" for none; `looked` where one was looked for; `findings` the backends; `advice` what is
    about none of them."""

    source: str = ""
    searched: tuple[str, ...] = ()
    findings: tuple[BackendReport, ...] = ()
    hints: tuple[Hint, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether everything configured works. A usual local server that is not there is no fault."""
        told: Sequence[Hint] = [
            *self.hints,
            *(advice for finding in self.findings for advice in finding.hints),
        ]
        return not any(advice.fault for advice in told)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "ok": self.ok,
            "source": self.source,
            "looked": list(self.searched),
            "advice": [_advice(advice) for advice in self.hints],
            "findings": [_finding(finding) for finding in self.findings],
        }


def _advice(advice: Hint) -> dict[str, Any]:
    return {"message": advice.message, "fault": advice.fault}


def _finding(finding: BackendReport) -> dict[str, Any]:
    names = ("name", "kind", "address", "status", "configured", "server", "latency")
    shown: dict[str, Any] = {name: getattr(finding, name) for name in names}
    shown["models"] = [
        {
            "id": model.id,
            "capabilities": sorted(model.capabilities),
            "loaded": model.loaded,
            "state": model.state,
        }
        for model in finding.models
    ]
    return shown | {"advice": [_advice(advice) for advice in finding.hints]}
