"""The base classes of providers, and the settings that all of them share.

A provider knows an address, a key and the deviations of its server. It owns one `BackendClient`,
which all its models share; `aclose` closes the connections. Queries (`models`, `health`, `server`)
are free: they never generate, never load a model, and need no slot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from anyio import to_thread

from majordomo import imagegen, llm, providers
from majordomo.backend_status import Health, ModelInfo
from majordomo.concurrency import portal
from majordomo.concurrency.lifecycle import Closeable
from majordomo.errors import ConfigurationError, MajordomoError, UnsupportedError
from majordomo.llm.embeddings import EmbeddingModel
from majordomo.models.client import BackendCall, BackendClient, LoadCheck
from majordomo.models.embedding_model import EmbeddingCodec, HTTPEmbeddingModel
from majordomo.observability import Observer
from majordomo.observability.observed_call import checked_observers
from majordomo.queueing.admission import AdmissionControl
from majordomo.queueing.rate_limiter import RateLimiter
from majordomo.queueing.resource_group import ResourceGroup, named_group
from majordomo.redaction import Redactor, Secret, as_secret
from majordomo.settings import HOSTED, LOCAL, Limits, Rate, Retries, Timeout
from majordomo.transport import BaseURL, make_transport, redact_in_logs
from majordomo.transport_types import HTTPRequest
from majordomo.validation import check_name

if TYPE_CHECKING:
    import ssl

M = TypeVar("M")
T = TypeVar("T")
# Free queries about the backend are answered quickly, or not at all.
QUERY_TIMEOUT = Timeout(connect=5, queue=30, first_byte=10, idle=10, total=15)
MAX_HEALTH_REPLY_BYTES = 1 << 20


class CommonSettings(TypedDict, total=False):
    """Keyword arguments of every provider.

    All are optional; None is the default unless said otherwise.
    """

    timeout: Timeout | float | None
    """Limits in seconds per phase of a call, or one number for the whole call. Default: limits that
    suit the provider, with time for models to load on local ones.
    """
    retries: Retries | None
    """How often a failed request is sent again, and after what delays. Default: `Retries()`."""
    max_concurrency: int | None
    """Calls at once, of all models and event loops together. Further calls queue in this process,
    fairly by user (`with_user_id`). Default: no limit, or 1 for servers that run one job at a time.
    """
    max_queue: int | None
    """Calls that may queue, from 0. One more raises OverloadedError (`QUEUE_FULL`) at once.
    Default: no limit.
    """
    rate: Rate | None
    """Calls and tokens per minute. Default: no limit."""
    gpu: ResourceGroup | str | None
    """The ResourceGroup, or the name of one, whose slots the calls of this provider take. Providers
    of one group take turns on the same hardware.
    """
    strict: bool
    """Whether a setting that the backend cannot honor raises UnsupportedError instead of adding a
    warning to the result. Default: False.
    """
    limits: Limits | None
    """Largest sizes of requests, replies and images. Default: `Limits()`."""
    proxy: str | None
    """URL of an HTTP proxy. It is never taken from the environment. Default: no proxy."""
    tls: str | ssl.SSLContext | None
    """Path of a file with CA certificates, or an `ssl.SSLContext`. Default: the public CAs."""
    headers: Mapping[str, str | Secret] | None
    """Headers to send with every request. Their values are treated as secrets. Default: none."""
    transport: Any
    """Replaces the built-in HTTP transport: an `httpx.AsyncClient`, an `httpx.AsyncBaseTransport`,
    or a wrapper from `majordomo.testing` (`Recorder`, `Replay`, `Faults`). Default: the built-in
    one.
    """
    observers: Sequence[Observer]
    """Observers of every call, for logs, metrics and costs. Default: none."""


def with_secret_headers(common: CommonSettings) -> CommonSettings:
    """Return the settings with the values of `headers` wrapped in Secret.

    They may be keys, and a traceback may show the local variables of a constructor.
    """
    headers = common.get("headers")
    if headers is None:
        return common
    return {
        **common,
        "headers": {name: as_secret(value) or Secret("") for name, value in headers.items()},
    }


def provider_names() -> frozenset[str]:
    """Return the names of all built-in providers.

    A model string may begin with one, and `extra` may hold settings for one provider under its
    name.
    """
    global _names
    if _names is None:
        # Imported here because it is slow to load and rarely needed.
        import pkgutil

        _names = frozenset(
            module.name
            for module in pkgutil.iter_modules(providers.__path__)
            if module.name != "base"
        )
    return _names


_names: frozenset[str] | None = None


def make_admission(
    max_concurrency: int | None,
    max_queue: int | None,
    rate: Rate | None,
    gpu: ResourceGroup | str | None,
) -> AdmissionControl:
    """Return the admission control for a provider's calls.

    Raises ConfigurationError, with the keyword as field, for an invalid value.
    """
    for name, value, minimum in (
        ("max_concurrency", max_concurrency, 1),
        ("max_queue", max_queue, 0),
    ):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < minimum
        ):
            raise ConfigurationError(
                f"{name} must be an integer of at least {minimum}; got {value!r}",
                details={"field": name},
            )
    if rate is not None and not isinstance(rate, Rate):
        raise ConfigurationError(
            f"rate must be a Rate; got {type(rate).__name__}", details={"field": "rate"}
        )
    if isinstance(gpu, str):
        gpu = named_group(gpu)
    if gpu is not None and not isinstance(gpu, ResourceGroup):
        raise ConfigurationError(
            f"gpu must be a ResourceGroup or the name of one; got {type(gpu).__name__}",
            details={"field": "gpu"},
        )
    return AdmissionControl(
        max_concurrency,
        max_queue=max_queue,
        rate_limiter=RateLimiter(rate, max_queue) if rate is not None else None,
        resource_group=gpu,
    )


class BaseProvider(Closeable, llm.Provider, imagegen.Provider):
    """The base of all providers. A kind of model that a subclass lacks raises UnsupportedError."""

    name = ""

    def model(self, id: str, *options: llm.Option) -> llm.Model:
        """Return a chat model."""
        raise UnsupportedError(f"{self.name} has no chat models", provider=self.name, model=id)

    def image_model(self, id: str, *options: imagegen.Option) -> imagegen.Model:
        """Return an image model."""
        raise UnsupportedError(f"{self.name} has no image models", provider=self.name, model=id)

    def embedding_model(self, id: str) -> EmbeddingModel:
        """Return an embedding model."""
        raise UnsupportedError(f"{self.name} has no embedding models", provider=self.name, model=id)

    async def server(self) -> str:
        """Return the name and version of the server software.

        An empty text where there is no free query for it.
        """
        return ""

    def models_sync(self) -> list[ModelInfo]:
        """Return the models (blocking). See `models`."""
        return portal.run(self.models)

    def server_sync(self) -> str:
        """Return the name and version of the server software (blocking)."""
        return portal.run(self.server)

    def health_sync(self) -> Health:
        """Return whether the backend is reachable (blocking). See `health`."""
        return portal.run(self.health)


class HTTPProvider(BaseProvider):
    """The base of all providers with an HTTP address."""

    version_path = ""
    """Path to append to an address in a model string that has no path."""
    local = True
    """Whether timeouts allow for models that load; False for hosted services."""
    basic_auth = False
    """Whether a key has the form "user:password"."""
    can_unload = False
    """Whether the backend can be asked to free the memory of a model."""
    default_max_concurrency: int | None = None
    """Calls at once unless `max_concurrency` is set; 1 where the backend runs one job at a time."""

    def __init__(
        self,
        base_url: str,
        key: Secret | None = None,
        *,
        timeout: Timeout | float | None = None,
        retries: Retries | None = None,
        max_concurrency: int | None = None,
        max_queue: int | None = None,
        rate: Rate | None = None,
        gpu: ResourceGroup | str | None = None,
        strict: bool = False,
        limits: Limits | None = None,
        proxy: str | None = None,
        tls: str | ssl.SSLContext | None = None,
        headers: Mapping[str, str | Secret] | None = None,
        transport: Any = None,
        observers: Sequence[Observer] = (),
        other_origins: Sequence[str] = (),
    ) -> None:
        headers = secrets = {
            name: as_secret(value) or Secret("") for name, value in (headers or {}).items()
        }
        if key is not None:
            if not key.fits_header():
                raise ConfigurationError(
                    "api_key must be a non-empty text that is valid in an HTTP header",
                    provider=self.name,
                    details={"field": "api_key"},
                )
            secrets.update(self._key_headers(key))
        admission = make_admission(
            max_concurrency if max_concurrency is not None else self.default_max_concurrency,
            max_queue,
            rate,
            gpu,
        )
        if timeout is not None and not isinstance(timeout, Timeout):
            timeout = Timeout(total=timeout)
        self.address: BaseURL = BaseURL.parse(base_url)
        self._strict = strict
        self._timeout = (timeout or Timeout()).with_defaults(LOCAL if self.local else HOSTED)
        self._image_timeout = (timeout or Timeout()).with_defaults(
            Timeout(total=None if self.local else 900).with_defaults(
                LOCAL if self.local else HOSTED
            )
        )
        redact = Redactor([key, *secrets.values()])
        redact_in_logs(redact)
        self._client = BackendClient(
            self.name,
            make_transport(
                self.address,
                headers=secrets,
                tls=tls,
                proxy=proxy,
                transport=transport,
                redact=Redactor([key, *secrets.values()], inside_base64=False),
                other_origins=other_origins,
            ),
            retries or Retries(),
            limits or Limits(),
            redact,
            load_check=self._load_check(),
            provider_names=provider_names,
            admission=admission,
            unload=self._unload_model if self.can_unload else None,
            observers=checked_observers(observers),
            address=self.address.origin,
            provider_instance=self,
        )

    def _key_headers(self, key: Secret) -> dict[str, Secret]:
        return {"Authorization": Secret(f"Bearer {key.reveal()}")}

    def _make_chat_model(
        self,
        model_type: Callable[..., M],
        codec: Any,
        id: str,
        options: Sequence[llm.Option],
        **settings: Any,
    ) -> M:
        """Return a chat model of this class with the provider's client and settings."""
        return self._make_model(model_type, codec, id, options, self._timeout, settings)

    def _make_image_model(
        self,
        model_type: Callable[..., M],
        codec: Any,
        id: str,
        options: Sequence[imagegen.Option],
        **settings: Any,
    ) -> M:
        """Return an image model of this class with the provider's client and settings."""
        return self._make_model(model_type, codec, id, options, self._image_timeout, settings)

    def _make_model(
        self,
        model_type: Callable[..., M],
        codec: Any,
        id: str,
        options: Sequence[Any],
        timeout: Timeout,
        settings: Mapping[str, Any],
    ) -> M:
        return model_type(
            self._client,
            codec,
            check_name(id, "model"),
            options,
            timeout=timeout,
            strict=self._strict,
            **settings,
        )

    def _make_embedding_model(self, codec: EmbeddingCodec, id: str) -> HTTPEmbeddingModel:
        return HTTPEmbeddingModel(
            self._client, codec, check_name(id, "model"), timeout=self._timeout
        )

    async def _unload_model(self, model: str) -> None:
        """Ask the backend to unload a model. Only called where `can_unload` is set."""

    def _load_check(self) -> LoadCheck | None:
        """Return the check that distinguishes a loading model from one that hangs.

        None where there is no free query for it.
        """
        return None

    async def _query(self, path: str, *, method: str = "GET", from_origin: bool = False) -> bytes:
        """Return the body of a free query."""
        return await self._client.query(
            HTTPRequest(method, path, from_origin=from_origin), QUERY_TIMEOUT
        )

    async def _query_decoded(
        self,
        path: str,
        decode: Callable[[bytes, Limits], T],
        *,
        method: str = "GET",
        from_origin: bool = False,
        within: BackendCall | None = None,
    ) -> T:
        """Return the decoded reply to a free query, which may be a part of a call."""
        return await self._client.query_decoded(
            HTTPRequest(method, path, from_origin=from_origin), QUERY_TIMEOUT, decode, within
        )

    async def _check_health(
        self, path: str, *, from_origin: bool = False, origin: str = ""
    ) -> Health:
        """Return whether a free query is answered, and how fast."""
        started_at = time.monotonic()
        try:
            await self._client.call(QUERY_TIMEOUT).read_body(
                HTTPRequest("GET", path, from_origin=from_origin, origin=origin),
                MAX_HEALTH_REPLY_BYTES,
            )
        except MajordomoError as error:
            return Health(False, error.message, error=error)
        return Health(True, "answers", time.monotonic() - started_at)

    async def aclose(self) -> None:
        """Close all connections; further calls are refused.

        These are the connections of this event loop and of the blocking calls.
        """
        await self._client.transport.aclose()
        if portal.is_running() and not portal.is_portal_thread():
            await to_thread.run_sync(portal.run, self._client.transport.aclose)

    def __repr__(self) -> str:
        # There is no address when the constructor has failed and a traceback shows its locals.
        address = getattr(self, "address", None)
        return (
            f"<{type(self).__name__} {address.origin}{address.path}>"
            if address
            else f"<{type(self).__name__}>"
        )
