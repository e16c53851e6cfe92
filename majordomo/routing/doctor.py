"""Asks every backend how it is, and says what mends what is wrong. Free: health, lists and versions; nothing is generated or loaded."""

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

PATIENCE = 8.0  # seconds a backend has for all questions
FAREWELL = 1.0


@dataclass(slots=True)
class _Subject:
    """A backend to be asked, and who counts on which of its models: label, kind of model, id."""

    name: ModelName
    label: str = ""  # what names it, where no table does
    wanted: list[tuple[str, str | None, str]] = field(default_factory=list)
    keywords: Mapping[str, Any] = field(default_factory=dict)
    usual: DefaultServer | None = None


async def examine(
    config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    usual: Iterable[DefaultServer] = DEFAULT_SERVERS,
    patience: float = PATIENCE,
) -> DoctorReport:
    """How everything is that the configuration names, and which of the `usual` local servers are there.

    All are asked at once, each for at most `patience` seconds. Raises nothing of MajordomoError: what is wrong stands in the diagnosis.
    """
    looked = tuple(str(path) for path in search_paths()) if config is None else ()
    try:
        known = load(config)
    except ConfigurationError as error:
        known, trouble = Config(), [Hint(error.message, fault=True)]
    else:
        trouble = []
    subjects, advice = _subjects(known)
    source = known.source or (str(config) if isinstance(config, (str, os.PathLike)) else "")
    found = await _ask_all([(subject, known) for subject in subjects], patience)
    taken = {finding.address for finding in found if finding.address}
    locals_ = await _ask_all([(_usual(server), Config()) for server in usual], patience)
    return DoctorReport(source, looked, (*found, *_apart(locals_, taken)), (*trouble, *advice))


def _subjects(config: Config) -> tuple[list[_Subject], list[Hint]]:
    """Every backend that is named somewhere, and what is wrong with names that name none."""
    subjects = {(name, "", ""): _Subject(ModelName("", table=name)) for name in config.providers}
    advice: list[Hint] = []
    for label, kind, name in _references(config):
        try:
            target: Target = resolve(config, name, kind or "chat")
        except ConfigurationError as error:
            advice.append(
                Hint(
                    error.message if label in error.message else f"{label}: {error.message}",
                    fault=True,
                )
            )
            continue
        for model in members(target):
            key = (model.table, "" if model.table else model.provider, model.base_url)
            subject = subjects.setdefault(key, _Subject(model, label if model.base_url else ""))
            subject.wanted.append((label, kind, model.model))
    return list(subjects.values()), advice


def _references(config: Config) -> list[tuple[str, str | None, str | None]]:
    """What names models: label, kind of model where it is told, model string. None stands for the default of the kind."""
    chosen = [(kind, found[1]) for kind in KINDS if (found := default(config, kind)) is not None]
    return [
        *(
            (f"defaults.{kind}" if source.startswith("defaults") else source, kind, None)
            for kind, source in chosen
        ),
        *((f"aliases.{name}", None, name) for name in config.aliases),
        *((f"chains.{name}", None, name) for name in config.chains),
    ]


def _usual(server: DefaultServer) -> _Subject:
    return _Subject(ModelName(server.kind), keywords=server.keywords, usual=server)


async def _ask_all(
    subjects: Sequence[tuple[_Subject, Config]], patience: float
) -> list[BackendReport]:
    found: dict[int, BackendReport] = {}

    async def ask(index: int, subject: _Subject, config: Config) -> None:
        found[index] = await _ask(subject, config, patience)

    async with anyio.create_task_group() as tasks:
        for index, (subject, config) in enumerate(subjects):
            tasks.start_soon(ask, index, subject, config)
    return [found[index] for index in sorted(found)]


async def _ask(subject: _Subject, config: Config, patience: float) -> BackendReport:
    """One backend, asked and left."""
    place = _place(subject, config)
    blank = BackendReport(
        _shown_name(subject), place.kind, place.address, "broken", subject.usual is None
    )
    try:
        provider = _made(subject, config)
    except MajordomoError as error:
        return replace(blank, hints=(Hint(error.message, fault=blank.configured),))
    except Exception as error:  # a plug-in may raise anything
        return replace(
            blank,
            hints=(
                Hint(f"it cannot be made: {type(error).__name__}: {error}", fault=blank.configured),
            ),
        )
    address = getattr(provider, "address", None)
    place = replace(place, address=f"{address.origin}{address.path}" if address is not None else "")
    blank = replace(blank, address=place.address)
    try:
        with anyio.move_on_after(patience):
            return await _answers(provider, subject, place, blank)
        late = DeadlineExceededError(f"no answer within {patience:g} s", phase="total")
        return replace(
            blank,
            status="unreachable",
            hints=(Hint(hint_for_error(late, place), fault=blank.configured),),
        )
    finally:
        with anyio.move_on_after(FAREWELL, shield=True), suppress(Exception):
            await provider.aclose()


async def _answers(
    provider: BaseProvider, subject: _Subject, place: BackendSetup, blank: BackendReport
) -> BackendReport:
    try:
        health = await provider.health()
        if not health.ok:
            raise health.error or BadResponseError(health.message)
        models = await _models(provider, subject)
        server = await _server(provider, models)
    except MajordomoError as error:
        status = status_of(error)
        fault = blank.configured and status not in ("loading", "busy")
        return replace(blank, status=status, hints=(Hint(hint_for_error(error, place), fault),))
    except Exception as error:  # a plug-in may raise anything
        return replace(
            blank,
            status="strange",
            hints=(Hint(f"it fails: {type(error).__name__}: {error}", blank.configured),),
        )
    listed = models if models is not None else ()
    own = getattr(provider, "default_models", {}).values()
    wanted = (
        []
        if models is None
        else [(label, kind, id_) for label, kind, id_ in subject.wanted if id_ and id_ not in own]
    )
    advice = [
        told
        for label, kind, id_ in wanted
        for told in hint_for_model(id_, label, kind, listed, place)
    ]
    loading = any(model.state in ("starting", "loading") for model in listed)
    found = replace(
        blank, status="loading" if loading else "ready", server=server, latency=health.latency
    )
    return replace(found, models=tuple(listed), hints=tuple(dict.fromkeys(advice)))


async def _models(provider: BaseProvider, subject: _Subject) -> list[ModelInfo] | None:
    """What it lists; None where it has no list. A usual server shows by its list that it is what it is taken for."""
    try:
        return await provider.models()
    except UnsupportedError:
        return None
    except NotFoundError:
        if subject.usual is None and provider.name == "stablediffusion":
            return None  # a build before April 2026
        raise


async def _server(provider: BaseProvider, models: Sequence[ModelInfo] | None) -> str:
    """What it calls itself: its own word, else the one owner of all its models."""
    try:
        if told := await provider.server():
            return told
    except MajordomoError:
        return ""
    owners = {
        model.raw.get("owned_by") if isinstance(model.raw, dict) else None for model in models or ()
    }
    owner = owners.pop() if len(owners) == 1 else None
    return owner if isinstance(owner, str) else ""


def _made(subject: _Subject, config: Config) -> BaseProvider:
    once = Retries(attempts=1)
    if subject.usual is not None:
        kind: Any = provider_class(subject.usual.kind)
        made: BaseProvider = kind(retries=once, **subject.keywords)
        return made
    return make_provider(config, subject.name, retries=once)


def _place(subject: _Subject, config: Config) -> BackendSetup:
    name = subject.name
    keywords = config.providers[name.table].keywords if name.table else subject.keywords
    kind = name.provider
    if name.table:
        try:
            kind = configured_class(config, name.table).name
        except MajordomoError:
            kind = str(config.providers[name.table].type)
    has_key = "api_key" in keywords or name.key is not None
    return BackendSetup(
        kind,
        name.table,
        str(keywords.get("preset") or ""),
        name.base_url,
        has_key,
        subject.label,
        subject.usual is not None,
    )


def _shown_name(subject: _Subject) -> str:
    if subject.usual is not None:
        return subject.usual.label
    return subject.name.table or subject.name.provider


def _apart(findings: Sequence[BackendReport], taken: set[str]) -> list[BackendReport]:
    """The usual servers that are not configured anyway. Of those that share an address, the first that is itself counts; when none is,
    all are named."""
    origins = {_origin(address) for address in taken}
    rest = [finding for finding in findings if _origin(finding.address) not in origins]
    there = {
        _origin(finding.address): finding
        for finding in reversed(rest)
        if finding.status in ("ready", "loading", "busy", "refused")
    }
    return [finding for finding in rest if there.get(_origin(finding.address), finding) is finding]


def _origin(address: str) -> str:
    return "/".join(address.split("/")[:3]).replace("//127.0.0.1", "//localhost")
