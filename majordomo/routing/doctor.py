"""Check every backend of a configuration, and report what to fix.

The checks are free: health, model lists and versions. Nothing is generated or loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from majordomo.backend_status import ModelInfo
from majordomo.errors import (
    BadResponseError,
    ConfigurationError,
    DeadlineExceededError,
    MajordomoError,
    NotFoundError,
    UnsupportedError,
)
from majordomo.providers.base import BaseProvider
from majordomo.routing.config import KINDS, Config, load
from majordomo.routing.config_file import search_paths
from majordomo.routing.factory import configured_class, make_provider
from majordomo.routing.hints import (
    DEFAULT_SERVERS,
    BackendSetup,
    DefaultServer,
    hint_for_error,
    hint_for_model,
    status_of,
)
from majordomo.routing.model_string import ModelName
from majordomo.routing.plugins import provider_class
from majordomo.routing.report import BackendReport, DoctorReport, Hint
from majordomo.routing.resolve import Target, default, members, resolve
from majordomo.settings import Retries

# Time limit for all requests to one backend.
BACKEND_TIMEOUT_SECONDS = 8.0
CLOSE_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _ModelReference:
    """A setting that names a model."""

    label: str
    kind: str | None
    model: str


@dataclass(slots=True)
class _Subject:
    """A backend to check, and the settings that refer to its models."""

    name: ModelName
    # The setting that names the backend, when it has no table.
    label: str = ""
    references: list[_ModelReference] = field(default_factory=list)
    keywords: Mapping[str, Any] = field(default_factory=dict)
    default_server: DefaultServer | None = None


async def examine(
    config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    default_servers: Iterable[DefaultServer] = DEFAULT_SERVERS,
    timeout: float = BACKEND_TIMEOUT_SECONDS,
) -> DoctorReport:
    """Check every backend that the configuration names, and the default local servers.

    All backends are checked at once. No MajordomoError is raised: what is wrong is in the report.

    Args:
        config: The configuration, as for `load`.
        default_servers: Local servers to look for at their default addresses.
        timeout: Time limit in seconds for all requests to one backend.
    """
    searched = tuple(str(path) for path in search_paths()) if config is None else ()
    config_hints: list[Hint] = []
    try:
        loaded = load(config)
    except ConfigurationError as error:
        loaded = Config()
        config_hints.append(Hint(error.message, fault=True))
    subjects, reference_hints = _subjects(loaded)
    source = loaded.source or (str(config) if isinstance(config, (str, os.PathLike)) else "")
    configured = await _check_all([(subject, loaded) for subject in subjects], timeout)
    addresses = {report.address for report in configured if report.address}
    local = await _check_all(
        [(_default_subject(server), Config()) for server in default_servers], timeout
    )
    return DoctorReport(
        source,
        searched,
        (*configured, *_unconfigured(local, addresses)),
        (*config_hints, *reference_hints),
    )


def _subjects(config: Config) -> tuple[list[_Subject], list[Hint]]:
    """Return every backend that is named, and hints about model strings that name none."""
    subjects = {(name, "", ""): _Subject(ModelName("", table=name)) for name in config.providers}
    hints: list[Hint] = []
    for label, kind, name in _references(config):
        try:
            target: Target = resolve(config, name, kind or "chat")
        except ConfigurationError as error:
            message = error.message if label in error.message else f"{label}: {error.message}"
            hints.append(Hint(message, fault=True))
            continue
        for model in members(target):
            key = (model.table, "" if model.table else model.provider, model.base_url)
            subject = subjects.setdefault(key, _Subject(model, label if model.base_url else ""))
            subject.references.append(_ModelReference(label, kind, model.model))
    return list(subjects.values()), hints


def _references(config: Config) -> list[tuple[str, str | None, str | None]]:
    """Return the label, the kind of model and the model string of every setting that names models.

    A kind of None is not known; a model string of None is the default of the kind.
    """
    defaults = [
        (kind, chosen[1]) for kind in KINDS if (chosen := default(config, kind)) is not None
    ]
    return [
        *(
            (f"defaults.{kind}" if source.startswith("defaults") else source, kind, None)
            for kind, source in defaults
        ),
        *((f"aliases.{name}", None, name) for name in config.aliases),
        *((f"chains.{name}", None, name) for name in config.chains),
    ]


def _default_subject(server: DefaultServer) -> _Subject:
    return _Subject(ModelName(server.kind), keywords=server.keywords, default_server=server)


async def _check_all(
    subjects: Sequence[tuple[_Subject, Config]], timeout: float
) -> list[BackendReport]:
    reports: dict[int, BackendReport] = {}

    async def check(index: int, subject: _Subject, config: Config) -> None:
        reports[index] = await _check(subject, config, timeout)

    async with anyio.create_task_group() as tasks:
        for index, (subject, config) in enumerate(subjects):
            tasks.start_soon(check, index, subject, config)
    return [reports[index] for index in sorted(reports)]


async def _check(subject: _Subject, config: Config, timeout: float) -> BackendReport:
    """Construct the provider of one backend, check it, and close it."""
    setup = _setup(subject, config)
    report = BackendReport(
        _display_name(subject), setup.kind, setup.address, "broken", subject.default_server is None
    )
    try:
        provider = _make_provider(subject, config)
    except MajordomoError as error:
        return replace(report, hints=(Hint(error.message, fault=report.configured),))
    except Exception as error:
        # A plug-in may raise anything.
        message = f"the provider cannot be constructed: {type(error).__name__}: {error}"
        return replace(report, hints=(Hint(message, fault=report.configured),))
    address = getattr(provider, "address", None)
    setup = replace(setup, address=f"{address.origin}{address.path}" if address is not None else "")
    report = replace(report, address=setup.address)
    try:
        with anyio.move_on_after(timeout):
            return await _check_provider(provider, subject, setup, report)
        timed_out = DeadlineExceededError(f"no response within {timeout:g} s", phase="total")
        return replace(
            report,
            status="unreachable",
            hints=(Hint(hint_for_error(timed_out, setup), fault=report.configured),),
        )
    finally:
        with anyio.move_on_after(CLOSE_TIMEOUT_SECONDS, shield=True), suppress(Exception):
            await provider.aclose()


async def _check_provider(
    provider: BaseProvider, subject: _Subject, setup: BackendSetup, report: BackendReport
) -> BackendReport:
    try:
        health = await provider.health()
        if not health.ok:
            raise health.error or BadResponseError(health.message)
        models = await _list_models(provider, subject)
        server = await _server_name(provider, models)
    except MajordomoError as error:
        status = status_of(error)
        fault = report.configured and status not in ("loading", "busy")
        return replace(report, status=status, hints=(Hint(hint_for_error(error, setup), fault),))
    except Exception as error:
        # A plug-in may raise anything.
        message = f"the check failed: {type(error).__name__}: {error}"
        return replace(report, status="unexpected", hints=(Hint(message, report.configured),))
    listed = models if models is not None else ()
    hints: list[Hint] = []
    if models is not None:
        default_ids = getattr(provider, "default_models", {}).values()
        for reference in subject.references:
            if reference.model and reference.model not in default_ids:
                hints += hint_for_model(
                    reference.model, reference.label, reference.kind, listed, setup
                )
    loading = any(model.state in ("starting", "loading") for model in listed)
    return replace(
        report,
        status="loading" if loading else "ready",
        server=server,
        latency=health.latency,
        models=tuple(listed),
        hints=tuple(dict.fromkeys(hints)),
    )


async def _list_models(provider: BaseProvider, subject: _Subject) -> list[ModelInfo] | None:
    """Return the models that the backend lists; None where it has no list.

    A default server must have a list: it proves that the server is of the expected kind.
    """
    try:
        return await provider.models()
    except UnsupportedError:
        return None
    except NotFoundError:
        if subject.default_server is None and provider.name == "stablediffusion":
            # sd-server builds before April 2026 have no model list.
            return None
        raise


async def _server_name(provider: BaseProvider, models: Sequence[ModelInfo] | None) -> str:
    """Return what the server calls itself, otherwise the owner that all its models share."""
    try:
        if name := await provider.server():
            return name
    except MajordomoError:
        return ""
    owners = {
        model.raw.get("owned_by") if isinstance(model.raw, dict) else None for model in models or ()
    }
    owner = owners.pop() if len(owners) == 1 else None
    return owner if isinstance(owner, str) else ""


def _make_provider(subject: _Subject, config: Config) -> BaseProvider:
    retries = Retries(attempts=1)
    if subject.default_server is not None:
        provider_type: Any = provider_class(subject.default_server.kind)
        provider: BaseProvider = provider_type(retries=retries, **subject.keywords)
        return provider
    return make_provider(config, subject.name, retries=retries)


def _setup(subject: _Subject, config: Config) -> BackendSetup:
    name = subject.name
    keywords = config.providers[name.table].keywords if name.table else subject.keywords
    kind = name.provider
    if name.table:
        try:
            kind = configured_class(config, name.table).name
        except MajordomoError:
            kind = str(config.providers[name.table].type)
    return BackendSetup(
        kind,
        table=name.table,
        preset=str(keywords.get("preset") or ""),
        address=name.base_url,
        has_key="api_key" in keywords or name.key is not None,
        label=subject.label,
        is_default_server=subject.default_server is not None,
    )


def _display_name(subject: _Subject) -> str:
    if subject.default_server is not None:
        return subject.default_server.label
    return subject.name.table or subject.name.provider


def _unconfigured(reports: Sequence[BackendReport], addresses: set[str]) -> list[BackendReport]:
    """Return the reports of the default servers at addresses that are not configured.

    When several share an address, only the first that was recognized is returned; when none was
    recognized, all are returned.
    """
    origins = {_origin(address) for address in addresses}
    remaining = [report for report in reports if _origin(report.address) not in origins]
    recognized = {
        _origin(report.address): report
        for report in reversed(remaining)
        if report.status in ("ready", "loading", "busy", "refused")
    }
    return [
        report for report in remaining if recognized.get(_origin(report.address), report) is report
    ]


def _origin(address: str) -> str:
    return "/".join(address.split("/")[:3]).replace("//127.0.0.1", "//localhost")
