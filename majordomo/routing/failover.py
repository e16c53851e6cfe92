"""Failover: call the members of a chain in order until one answers. Shared by both chain classes.

Theory of operation
-------------------
`_failover` runs once per call of the chain:

1. `_admitted_members` yields the members that may be called, in order. A member with a circuit
   breaker needs a `MemberPermit`; a nested chain has no breaker of its own, because it has those of
   its members. A member that is cooling down is skipped, with an error of code COOLING_DOWN.
2. `_attempt` checks the known capabilities, calls the member, and records the outcome with the
   permit, whatever happens.
3. An answer ends the failover. So does an error after a part of the answer was delivered
   (StreamBrokenError), and an error that another member would not avoid (`should_fail_over`).
   Otherwise the error is kept and the next member is called.
4. When every member was skipped, the one whose cooldown ends first is called as a last resort,
   unless another call already probes it.
5. When no member is left, ChainExhaustedError is raised with the errors in member order.

Invariants:
* Every permit is used for one attempt and is closed by it.
* `failures` maps the index of a member to its error; a member has at most one.
* The attempts of one call never overlap, and a member's stream is closed before the next is called.

Ownership: the chain closes only the members that it made from model strings.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

from anyio import create_task_group

from majordomo import imagegen, llm
from majordomo.backend_status import Capability, Health, Loading, Queued
from majordomo.concurrency import portal
from majordomo.concurrency.event_stream import EventStream
from majordomo.concurrency.lifecycle import close_all
from majordomo.errors import (
    BadResponseError,
    ConfigurationError,
    FailedAttempt,
    MajordomoError,
    OverloadedError,
)
from majordomo.media.image_part import ImagePart
from majordomo.models.base import ModelBase
from majordomo.models.call_context import CallContext, Emit
from majordomo.observability.observed_call import ObservedCall
from majordomo.routing.capabilities import Capabilities
from majordomo.routing.chain_request import ChainRequest
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
from majordomo.transport_types import Deadline

M = TypeVar("M", bound="llm.Model | imagegen.Model")
R = TypeVar("R", "llm.Request", "imagegen.Request")
A = TypeVar("A", "llm.Reply", "imagegen.Result")
E = TypeVar("E")


@dataclass(slots=True)
class ChainCall(CallContext, Generic[E, A]):
    """A call of a chain."""

    stream: EventStream[E, A] | None = None
    """The stream of the member that is being called."""


class MemberEvents:
    """Passes a member's events on and notes whether a part of the answer was among them."""

    def __init__(self, emit: Emit | None, permit: MemberPermit | None) -> None:
        self._emit = emit
        self._permit = permit
        self.delivered: bool = False
        """Whether a part of the answer was passed on. Loading and Queued events are none."""
        self.previews: dict[int, ImagePart] = {}
        """The last preview of each image, by its index."""
        self.partial: Any = None
        """The reply or result so far, when the answer was interrupted."""

    @property
    def wants_events(self) -> bool:
        """Whether the caller of the chain listens to events."""
        return self._emit is not None

    def __call__(self, event: Any) -> None:
        """Pass one event on."""
        if isinstance(event, imagegen.Preview):
            self.previews[event.index] = event.image
        if not self.delivered and not isinstance(event, (Loading, Queued)):
            self.delivered = True
            if self._permit is not None:
                self._permit.on_first_event()
        if self._emit is not None:
            self._emit(event)


class ChainBase(ModelBase[ChainRequest[R], A], Generic[M, R, A, E]):
    """Models in order, called until one answers. Subclasses define the kind of model."""

    _kind: type[M]
    _done: type[Any]
    provider = "chain"

    def __init__(
        self,
        models: Iterable[M | str],
        *options: Callable[[R], R],
        cooldown: float | None = None,
        fallback_on: Reason | Iterable[Reason] = (),
        health: ChainHealth | None = None,
        capabilities: Mapping[str, Collection[Capability]] | None = None,
        limits: Limits | None = None,
    ) -> None:
        if cooldown is not None and health is not None:
            raise ConfigurationError(
                "cooldown and health must not both be given; set the cooldown of the ChainHealth",
                details={"field": "cooldown"},
            )
        if isinstance(models, (str, bytes)) or not isinstance(models, Iterable):
            raise ConfigurationError(
                f"models must be a list of models or model strings; got {type(models).__name__}",
                details={"field": "models"},
            )
        self._fallback_on = as_reasons(fallback_on)
        self.health: ChainHealth = (
            health if health is not None else ChainHealth(30.0 if cooldown is None else cooldown)
        )
        self._owned: list[M] = []
        members: list[M] = []
        for member in models:
            if isinstance(member, str):
                model = self._resolve_model(member)
                self._owned.append(model)
            elif isinstance(member, self._kind):
                model = member
            else:
                raise ConfigurationError(
                    f"models must be {self.operation} models or model strings; "
                    f"got {type(member).__name__}",
                    details={"field": "models"},
                )
            if _contains(model, self):
                raise ConfigurationError(
                    "a chain must not contain itself", details={"field": "models"}
                )
            members.append(model)
        if not members:
            raise ConfigurationError(
                "models must have at least one model; got none", details={"field": "models"}
            )
        self._members = tuple(members)
        self._targets = _targets(self._members)
        names = [f"{model.provider}/{model.id}" for model in self._members]
        self._capabilities = Capabilities(capabilities or {}, names)
        super().__init__("chain", ",".join(names), options, limits=limits or Limits())

    @abstractmethod
    def _resolve_model(self, model_string: str) -> M:
        """Return the model of a model string. It is closed with the chain."""

    @abstractmethod
    def _need(self, request: R) -> Capability | None:
        """Return the capability that a member needs for this request."""

    @abstractmethod
    def _partial(self, model: M, stream: EventStream[E, A], events: MemberEvents) -> A | None:
        """Return the answer so far of a member whose stream was interrupted."""

    def _start_call(
        self, request: ChainRequest[R], emit: Emit | None, observed: ObservedCall | None
    ) -> ChainCall[E, A]:
        return ChainCall(Deadline(self._timeout), self.id, request.user_id, emit, emit is not None)

    async def _generate(self, request: ChainRequest[R], call: ChainCall[E, A]) -> A:
        async def call_member(model: Any, events: MemberEvents) -> A:
            if not events.wants_events:
                answer: A = await model.generate(request.request, **request.unset)
                return answer
            async with model.stream(request.request, **request.unset) as stream:
                call.stream = stream
                try:
                    return await self._forward(model, stream, events)
                except MajordomoError as error:
                    # Raised outside the block: a stream that holds a task group would wrap it.
                    failure = error
                    events.partial = self._partial(model, stream, events)
            raise failure

        answer, model, attempts = await self._failover(
            self._need(request.request), call_member, call.emit
        )
        return replace(
            answer,
            provider=answer.provider or model.provider,
            model=answer.model or model.id,
            failed_attempts=attempts + answer.failed_attempts,
        )

    async def _forward(self, model: M, stream: EventStream[E, A], events: MemberEvents) -> A:
        """Pass a member's events on until its Done, and return the answer."""
        async for event in stream:
            if isinstance(event, self._done):
                return stream.result
            events(event)
        raise BadResponseError(
            "the stream ended without Done", code="NO_END", provider=model.provider, model=model.id
        )

    @property
    def members(self) -> tuple[M, ...]:
        """The models of the chain, in order."""
        return self._members

    def status(self) -> tuple[MemberStatus, ...]:
        """Return the health of the members as calls have found it.

        A nested chain is replaced by the status of its members.
        """
        statuses: list[MemberStatus] = []
        for model, target in zip(self._members, self._targets, strict=True):
            if isinstance(model, ChainBase):
                statuses += model.status()
            else:
                statuses.append(
                    self.health.status(target, self.operation, model.provider, model.id)
                )
        return tuple(statuses)

    async def probe(self) -> tuple[MemberStatus, ...]:
        """Run the health checks of the members' providers, and return the status after them.

        This is free: nothing is generated and no model is loaded. The cooldown of a member that
        answers ends, so that the next call tries it; a member that cannot be reached starts to cool
        down. A member that asked to wait for a time is left alone until then, and one without a
        known provider keeps its status.
        """
        results: dict[int, Health] = {}
        chains = [
            cast("ChainBase[Any, Any, Any, Any]", model)
            for model in self._members
            if isinstance(model, ChainBase)
        ]
        providers: dict[int, Any] = {
            id(model.provider_instance): model.provider_instance
            for model in self._members
            if model.provider_instance is not None
        }

        async def check(key: int, provider: Any) -> None:
            results[key] = await _check_health(provider)

        # Neither `check` nor the probe of a nested chain raises an exception.
        async with create_task_group() as group:
            for key, provider in providers.items():
                group.start_soon(check, key, provider)
            for chain in chains:
                group.start_soon(chain.probe)
        for model, target in zip(self._members, self._targets, strict=True):
            if (health := results.get(id(model.provider_instance))) is not None:
                self.health.record_health(target, self.operation, health)
        return self.status()

    def probe_sync(self) -> tuple[MemberStatus, ...]:
        """Blocking version of `probe`."""
        return portal.run(self.probe)

    async def aclose(self) -> None:
        """Close the members that were made from model strings. The others are left open."""
        await close_all(self._owned)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    async def _failover(
        self,
        need: Capability | None,
        call_member: Callable[[M, MemberEvents], Awaitable[A]],
        emit: Emit | None,
    ) -> tuple[A, M, tuple[FailedAttempt, ...]]:
        """Return the first answer, the member that gave it, and the attempts that failed before."""
        failures: dict[int, MajordomoError] = {}
        for index, permit in self._admitted_members(failures):
            events = MemberEvents(emit, permit)
            model = self._members[index]
            try:
                answer = await self._attempt(model, permit, need, call_member, events)
            except MajordomoError as error:
                if events.delivered:
                    broken = broken_stream_error(
                        error, events.partial, failed_attempts(_in_member_order(failures))
                    )
                    raise broken from (error.__cause__ if broken is error else error)
                if not should_fail_over(error, self._fallback_on):
                    raise
                failures[index] = error
            else:
                return answer, model, failed_attempts(_in_member_order(failures))
        raise exhausted_error(_in_member_order(failures), self.id)

    def _admitted_members(
        self, failures: dict[int, MajordomoError]
    ) -> Iterator[tuple[int, MemberPermit | None]]:
        """Yield the index and the permit of each member that may be called.

        A member that is cooling down is added to `failures`. When all members were skipped, the one
        whose cooldown ends first is yielded as a last resort.
        """
        cooling_down: dict[str, int] = {}
        for index, target in enumerate(self._targets):
            if isinstance(self._members[index], ChainBase):
                yield index, None
            elif (permit := self.health.admit(target, self.operation)) is not None:
                yield index, permit
            else:
                cooling_down.setdefault(target, index)
                failures[index] = self._cooling_down_error(index)
        if cooling_down and all(was_skipped(error) for error in failures.values()):
            permit = self.health.admit_probe(list(cooling_down), self.operation)
            if permit is not None:
                index = cooling_down[permit.target]
                del failures[index]
                yield index, permit

    def _cooling_down_error(self, index: int) -> MajordomoError:
        model = self._members[index]
        status = self.health.status(self._targets[index], self.operation)
        name = f"{model.provider}/{model.id}"
        after = f" after {status.code}" if status.code else ""
        return OverloadedError(
            f"{name} is cooling down for another {status.remaining:.1f} s{after}"
            if status.remaining
            else f"another call is already probing {name}{after}",
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
        call_member: Callable[[M, MemberEvents], Awaitable[A]],
        events: MemberEvents,
    ) -> A:
        """Call one member and record the outcome."""
        try:
            if need is not None:
                await self._capabilities.check(model, need)
            answer = await call_member(model, events)
        except BaseException as error:
            if isinstance(error, MajordomoError):
                error.with_context(model.provider, model.id)
            if permit is not None:
                permit.failed(error)
            raise
        if permit is not None:
            permit.succeeded()
        return answer


def _in_member_order(failures: Mapping[int, MajordomoError]) -> list[MajordomoError]:
    return [failures[index] for index in sorted(failures)]


def _contains(model: object, chain: object) -> bool:
    return model is chain or (
        isinstance(model, ChainBase) and any(_contains(member, chain) for member in model.members)
    )


def _targets(models: Iterable[llm.Model | imagegen.Model]) -> tuple[str, ...]:
    """Return the target of each member: provider, model and URL, with a number if not unique.

    Chains of the same members have the same targets. Two accounts at one URL are two targets; the
    same model twice is one.
    """
    providers_by_name: dict[str, list[int]] = {}
    targets = []
    for model in models:
        address = getattr(model.provider_instance, "address", None)
        name = f"{model.provider}/{model.id}"
        if isinstance(address, BaseURL):
            name += f" at {address.origin}{address.path}"
        providers = providers_by_name.setdefault(name, [])
        provider = id(model if model.provider_instance is None else model.provider_instance)
        if provider not in providers:
            providers.append(provider)
        number = providers.index(provider) + 1
        targets.append(name if number == 1 else f"{name} #{number}")
    return tuple(targets)


async def _check_health(provider: llm.Provider | imagegen.Provider) -> Health:
    try:
        return await provider.health()
    except MajordomoError as error:
        return Health(False, error.message, error=error)
    except Exception as error:
        # A custom provider may raise anything; the group would wrap it.
        return Health(False, f"{type(error).__name__}: {error}")
