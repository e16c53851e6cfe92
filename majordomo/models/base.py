"""The base of all models: options, observers, and how a call runs, for every kind of model.

Theory of operation:

A public method of a model does three things: it builds a checked request (`_checked`), runs it
(`_run`, or `_open_source` for a stream), and returns the result. Sync methods run the same
coroutine in the portal. `ChatModelBase` and `ImageModelBase` write these methods once for their
kind, because their keywords are typed per kind; `HTTPEmbeddingModel` has its own two.

`_run` starts a `CallContext`, reports the call to the observers, and awaits `_generate(request,
call)`, which every model implements. An image stream is the same coroutine in a `TaskStream`; a
chat stream has a source of its own (`_stream(request, call)`), because its events arrive from the
network in batches.

`HTTPModel` is the part that all models of HTTP backends share. Their calls are `BackendCall`s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from majordomo.concurrency.loop_lifetime import SupportsAclose
from majordomo.dialects.request_body import own_extra
from majordomo.errors import MajordomoError
from majordomo.models.call_context import CallContext, Emit
from majordomo.models.client import BackendCall, BackendClient
from majordomo.observability import Observer
from majordomo.observability.observed_call import ObservedCall
from majordomo.observability.observer import Operation
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import Deadline

T = TypeVar("T")


class ForUser(Protocol):
    """A request of an end user."""

    @property
    def user_id(self) -> str:
        """The end user; "" for no particular one."""
        ...


Request = TypeVar("Request", bound=ForUser)
Result = TypeVar("Result")
NO_LIMITS = Timeout()


class ModelBase(ABC, Generic[Request, Result]):
    """The base of all models: runs a checked request and reports it to the observers."""

    operation: ClassVar[Operation]
    """The kind of call, as observers receive it."""
    provider: str
    """Name of the provider."""
    id: str
    """The model's id at its provider."""
    _timeout: Timeout = NO_LIMITS
    _owned_provider: SupportsAclose | None = None

    def __init__(
        self,
        provider: str,
        id: str,
        options: Sequence[Callable[[Any], Any]] = (),
        *,
        limits: Limits,
        observers: Sequence[Observer] = (),
        address: str = "",
    ) -> None:
        self.provider = provider
        self.id = id
        self._options = tuple(options)
        self._limits = limits
        self._observers = observers
        self._address = address

    @abstractmethod
    async def _generate(self, request: Request, call: Any) -> Result:
        """Return the result of a checked request.

        `call` is the context that `_start_call` made; its `emit`, unless None, receives the events.
        """

    def _settings(self, request: Request) -> Mapping[str, Any]:
        """Return the settings of a request for observers, without its content."""
        return {}

    def _content(self, request: Request) -> Any:
        """Return the content of a request for observers that want it."""
        return request

    def _checked(self, build: Callable[[], T]) -> T:
        """Return the built request; an error of it gets the names of provider and model."""
        try:
            return build()
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise

    def _start_call(
        self, request: Request, emit: Emit | None, observed: ObservedCall | None
    ) -> CallContext:
        """Start the context of a call: its time limits count from now."""
        return CallContext(
            Deadline(self._timeout),
            self.id,
            request.user_id,
            self._listener(emit, observed),
            emit is not None,
            observed,
        )

    def _listener(self, emit: Emit | None, observed: ObservedCall | None) -> Emit | None:
        """Return what receives the events of a call: the caller, the observers, or both."""
        if observed is None or emit is None:
            return emit if observed is None else observed.emit
        report, deliver = observed.emit, emit

        def emit_both(event: Any) -> None:
            report(event)
            deliver(event)

        return emit_both

    def _observe(self, request: Request, *, streamed: bool) -> ObservedCall:
        return ObservedCall(
            self._observers,
            self.operation,
            self.provider,
            self.id,
            self._content(request),
            user_id=request.user_id,
            streamed=streamed,
            address=self._address,
            settings=self._settings(request),
        )

    async def _run(self, request: Request, emit: Emit | None = None) -> Result:
        """Run a checked request and report it to the observers."""
        if not self._observers:
            return await self._generate(request, self._start_call(request, emit, None))
        observed = self._observe(request, streamed=emit is not None)
        observed.start()
        return await observed.run(
            lambda: self._generate(request, self._start_call(request, emit, observed))
        )

    async def aclose(self) -> None:
        """Close the provider if this model was created from a model string; else do nothing."""
        if self._owned_provider is not None:
            await self._owned_provider.aclose()

    def __repr__(self) -> str:
        return f"<{self.operation} model {self.provider}/{self.id}>"


class HTTPModel(ModelBase[Request, Result]):
    """The base of all models of an HTTP backend. Their calls are `BackendCall`s."""

    def __init__(
        self,
        client: BackendClient,
        id: str,
        options: Sequence[Callable[[Any], Any]] = (),
        *,
        timeout: Timeout,
        strict: bool = False,
    ) -> None:
        super().__init__(
            client.provider,
            id,
            options,
            limits=client.limits,
            observers=client.observers,
            address=client.address,
        )
        self._client = client
        self._timeout = timeout
        self._strict = strict

    @property
    def provider_instance(self) -> Any:
        """The provider of this model."""
        return self._client.provider_instance

    def _start_call(
        self, request: Request, emit: Emit | None, observed: ObservedCall | None
    ) -> BackendCall:
        return self._client.call(
            self._timeout,
            self.id,
            request.user_id,
            self._listener(emit, observed),
            streamed=emit is not None,
            observed=observed,
        )

    async def _run_admitted(
        self,
        call: BackendCall,
        run: Callable[[], Awaitable[T]],
        count_tokens: Callable[[T], int | None],
    ) -> T:
        """Return the result of `run()`, for which the call holds a slot.

        `count_tokens` returns the tokens of the result that count against a rate limit.
        """
        admission = await call.admit()
        try:
            result = await run()
            admission.release(count_tokens(result))
        finally:
            admission.release()
        return result

    def _own_extra(self, extra: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the part of `extra` that is meant for this provider."""
        return own_extra(extra, self.provider, self._client.provider_names)
