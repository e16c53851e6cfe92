"""What both kinds of chain do: walk along the members, judge what went wrong, and say so in the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from anyio import create_task_group

from majordomo import imagegen, llm
from majordomo.backend_status import Capability, Health, Loading, Queued
from majordomo.concurrency import portal
from majordomo.concurrency.lifecycle import close_all
from majordomo.errors import ConfigurationError, FailedAttempt, MajordomoError, OverloadedError
from majordomo.routing.capabilities import Capabilities
from majordomo.routing.failover_policy import (
    COOLING_DOWN,
    Reason,
    as_reasons,
    broken_stream_error,
    exhausted_error,
    failed_attempts,
    should_fail_over,
    was_skipped,
)
from majordomo.routing.health import ChainHealth, MemberPermit, MemberStatus
from majordomo.settings import Limits
from majordomo.transport import BaseURL

M = TypeVar("M", bound="llm.Model | imagegen.Model")
Option = TypeVar("Option")
A = TypeVar("A")
Emit = Callable[[Any], None]


class MemberEvents:
    """Hands a member's events on, and knows whether a part of the answer was among them.

    `partial` is what of the answer had come when it broke off.
    """

    def __init__(self, emit: Emit | None, permit: MemberPermit | None) -> None:
        self._emit = emit
        self._permit = permit
        self.delivered: bool = False
        self.partial: Any = None

    @property
    def wants_events(self) -> bool:
        return self._emit is not None

    def __call__(self, event: Any) -> None:
        if not self.delivered and not isinstance(event, (Loading, Queued)):
            self.delivered = True
            if self._permit is not None:
                self._permit.on_first_event()
        if self._emit is not None:
            self._emit(event)


class ChainBase(ABC, Generic[M, Option]):
    """Models in order, asked until one answers. A kind of chain says of which kind they are."""

    operation: str  # "chat" or "image"
    _kind: type[M]
    provider = "chain"

    def __init__(
        self,
        models: Iterable[M | str],
        *options: Option,
        cooldown: float | None = None,
        fallback_on: Reason | Iterable[Reason] = (),
        health: ChainHealth | None = None,
        capabilities: Mapping[str, Collection[Capability]] | None = None,
        limits: Limits | None = None,
    ) -> None:
        if cooldown is not None and health is not None:
            raise ConfigurationError(
                "a health has a cooldown of its own: give one of the two",
                details={"field": "cooldown"},
            )
        if isinstance(models, (str, bytes)) or not isinstance(models, Iterable):
            raise ConfigurationError(
                "models is a list of models or model strings", details={"field": "models"}
            )
        self._options = options
        self._fallback_on = as_reasons(fallback_on)
        self.health: ChainHealth = (
            health if health is not None else ChainHealth(30.0 if cooldown is None else cooldown)
        )
        self._limits = limits or Limits()
        self._owned: list[M] = []
        held: list[M] = []
        for member in models:
            if isinstance(member, str):
                model = self._resolve_model(member)
                self._owned.append(model)
            elif isinstance(member, self._kind):
                model = member
            else:
                raise ConfigurationError(
                    f"this chain is made of {self.operation} models and model strings, not of {type(member).__name__}",
                    details={"field": "models"},
                )
            if _contains(model, self):
                raise ConfigurationError(
                    "a chain cannot be within itself", details={"field": "models"}
                )
            held.append(model)
        if not held:
            raise ConfigurationError("a chain needs models", details={"field": "models"})
        self._members = tuple(held)
        self._targets = _targets(self._members)
        names = [f"{model.provider}/{model.id}" for model in self._members]
        self._capabilities = Capabilities(capabilities or {}, names)
        self.id: str = ",".join(names)

    @abstractmethod
    def _resolve_model(self, model_string: str) -> M:
        """The model of a model string; it is closed with the chain."""

    @property
    def members(self) -> tuple[M, ...]:
        return self._members

    def status(self) -> tuple[MemberStatus, ...]:
        """How the members are, as calls have found them; those of a chain within in its place."""
        found: list[MemberStatus] = []
        for model, target in zip(self._members, self._targets, strict=True):
            if isinstance(model, ChainBase):
                found += model.status()
            else:
                found.append(self.health.status(target, self.operation, model.provider, model.id))
        return tuple(found)

    async def probe(self) -> tuple[MemberStatus, ...]:
        """Ask the members' providers whether they answer. It is free: nothing is generated and no model loaded.

        Who answers need rest no longer, so that the next call tries it; who is out of reach begins to rest. Who asked to be left alone for
        a time is left alone, and a member whose provider is not known stays as it is. Returns the status after it.
        """
        found: dict[int, Health] = {}
        chains = [
            cast("ChainBase[Any, Any]", model)
            for model in self._members
            if isinstance(model, ChainBase)
        ]
        providers: dict[int, Any] = {
            id(model.provider_instance): model.provider_instance
            for model in self._members
            if model.provider_instance is not None
        }

        async def ask(key: int, provider: Any) -> None:
            found[key] = await _check_health(provider)

        async with create_task_group() as group:  # no exception leaves `ask`, nor a probe
            for key, provider in providers.items():
                group.start_soon(ask, key, provider)
            for chain in chains:
                group.start_soon(chain.probe)
        for model, target in zip(self._members, self._targets, strict=True):
            if (health := found.get(id(model.provider_instance))) is not None:
                self.health.record_health(target, self.operation, health)
        return self.status()

    def probe_sync(self) -> tuple[MemberStatus, ...]:
        """The same, blocking."""
        return portal.run(self.probe)

    async def aclose(self) -> None:
        """Close the members that were made from strings. The others belong to whoever made them."""
        await close_all(self._owned)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    async def _failover(
        self,
        need: Capability | None,
        ask: Callable[[M, MemberEvents], Awaitable[A]],
        emit: Emit | None,
    ) -> tuple[A, M, tuple[FailedAttempt, ...]]:
        """The first answer, who gave it, and who was tried before."""
        missed: dict[int, MajordomoError] = {}
        for place, permit in self._admitted_members(missed):
            hearing = MemberEvents(emit, permit)
            model = self._members[place]
            try:
                answer = await self._attempt(model, permit, need, ask, hearing)
            except MajordomoError as error:
                if hearing.delivered:
                    told = broken_stream_error(
                        error, hearing.partial, failed_attempts(self._failures_in_order(missed))
                    )
                    raise told from (error.__cause__ if told is error else error)
                if not should_fail_over(error, self._fallback_on):
                    raise
                missed[place] = error
            else:
                return answer, model, failed_attempts(self._failures_in_order(missed))
        raise exhausted_error(self._failures_in_order(missed), self.id)

    def _failures_in_order(self, missed: Mapping[int, MajordomoError]) -> list[MajordomoError]:
        return [missed[place] for place in sorted(missed)]

    def _admitted_members(
        self, missed: dict[int, MajordomoError]
    ) -> Iterator[tuple[int, MemberPermit | None]]:
        """Places in order with the leave to ask there. Who rests is missed; if nobody could be asked, the one whose rest ends first is."""
        resting: dict[str, int] = {}
        for place, target in enumerate(self._targets):
            if isinstance(self._members[place], ChainBase):  # a chain has the health of its members
                yield place, None
            elif (permit := self.health.admit(target, self.operation)) is not None:
                yield place, permit
            else:
                resting.setdefault(target, place)
                missed[place] = self._cooling_down_error(place)
        if resting and all(was_skipped(error) for error in missed.values()):
            permit = self.health.admit_probe(list(resting), self.operation)
            if permit is not None:
                del missed[resting[permit.target]]
                yield resting[permit.target], permit

    def _cooling_down_error(self, place: int) -> MajordomoError:
        model = self._members[place]
        status = self.health.status(self._targets[place], self.operation)
        what = f"{model.provider}/{model.id}"
        after = f" after {status.code}" if status.code else ""
        return OverloadedError(
            f"{what} is cooling down for another {status.remaining:.1f} s{after}"
            if status.remaining
            else f"another call is just trying {what}{after}",
            code=COOLING_DOWN,
            provider=model.provider,
            model=model.id,
            retry_after=status.remaining or None,
            details={"last_code": status.code, "failures": status.failures},
        )

    async def _attempt(
        self,
        model: M,
        permit: MemberPermit | None,
        need: Capability | None,
        ask: Callable[[M, MemberEvents], Awaitable[A]],
        hearing: MemberEvents,
    ) -> A:
        try:
            if need is not None:
                await self._capabilities.check(model, need)
            answer = await ask(model, hearing)
        except BaseException as error:
            if isinstance(error, MajordomoError):
                error.with_context(model.provider, model.id)
            if permit is not None:
                permit.failed(error)
            raise
        if permit is not None:
            permit.succeeded()
        return answer


def _contains(model: object, chain: object) -> bool:
    return model is chain or (
        isinstance(model, ChainBase) and any(_contains(member, chain) for member in model.members)
    )


def _targets(models: Iterable[llm.Model | imagegen.Model]) -> tuple[str, ...]:
    """A name for each member, the same in every chain of the same members: provider, model, address; alike ones are numbered.

    Two accounts at one address are two targets, and the same model twice is one.
    """
    seen: dict[str, list[int]] = {}
    found = []
    for model in models:
        address = getattr(model.provider_instance, "address", None)
        name = f"{model.provider}/{model.id}"
        if isinstance(address, BaseURL):
            name += f" at {address.origin}{address.path}"
        owners = seen.setdefault(name, [])
        owner = id(model if model.provider_instance is None else model.provider_instance)
        if owner not in owners:
            owners.append(owner)
        number = owners.index(owner) + 1
        found.append(name if number == 1 else f"{name} #{number}")
    return tuple(found)


async def _check_health(provider: llm.Provider | imagegen.Provider) -> Health:
    try:
        return await provider.health()
    except MajordomoError as error:
        return Health(False, error.message, error=error)
    except Exception as error:  # a program's own provider; the group would wrap it
        return Health(False, f"{type(error).__name__}: {error}")
