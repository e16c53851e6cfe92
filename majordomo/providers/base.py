"""What all providers share: the common keywords, and the questions that are free."""

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
from majordomo.models.client import BackendClient, LoadCheck
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
QUERY_TIMEOUT = Timeout(
    connect=5, queue=30, first_byte=10, idle=10, total=15
)  # a question about the backend: it is free, so it is quick


class CommonSettings(TypedDict, total=False):
    """Keywords of every provider.

    timeout: limits per phase, or seconds for the whole call. retries: tries in all, and how patient. max_concurrency: calls at
    once, of all models together and from all event loops; the others queue here, callers (`with_user_id`) taking turns. max_queue: how
    many may wait; one more gets OverloadedError (`QUEUE_FULL`) at once. rate: calls and tokens a minute. gpu: the ResourceGroup, or its
    name, whose places this provider's calls take. strict: what the backend cannot honor is an error
    instead of a warning. limits: sizes. proxy: URL of an HTTP proxy (none is ever taken from the environment). tls: file of CA
    certificates, or an ssl.SSLContext. headers: sent with every request. transport: any httpx.AsyncClient or httpx.AsyncBaseTransport
    instead of our own sockets, or what stands around them (a recorder, a replay, made faults of majordomo.testing). observers: are told
    of every call.
    """

    timeout: Timeout | float | None
    retries: Retries | None
    max_concurrency: int | None
    max_queue: int | None
    rate: Rate | None
    gpu: ResourceGroup | str | None
    strict: bool
    limits: Limits | None
    proxy: str | None
    tls: str | ssl.SSLContext | None
    headers: Mapping[str, str | Secret] | None
    transport: Any
    observers: Sequence[Observer]


def with_secret_headers(common: CommonSettings) -> CommonSettings:
    """The same keywords with the values of `headers` sealed: they may be keys, and a traceback may show a constructor's locals."""
    headers = common.get("headers")
    if headers is None:
        return common
    return {
        **common,
        "headers": {name: as_secret(value) or Secret("") for name, value in headers.items()},
    }


def provider_names() -> frozenset[str]:
    """The names that a model string may begin with, and under which `extra` may hold what is for one provider only."""
    global _names
    if _names is None:
        import pkgutil  # rare, and slow to load

        _names = frozenset(
            found.name for found in pkgutil.iter_modules(providers.__path__) if found.name != "base"
        )
    return _names


_names: frozenset[str] | None = None


def make_admission(
    max_concurrency: int | None,
    max_queue: int | None,
    rate: Rate | None,
    gpu: ResourceGroup | str | None,
) -> AdmissionControl:
    """What a provider's calls wait for. Raises ConfigurationError, naming the keyword, for what cannot be."""
    for name, value, least in (
        ("max_concurrency", max_concurrency, 1),
        ("max_queue", max_queue, 0),
    ):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or value < least
        ):
            raise ConfigurationError(
                f"{name} is a whole number from {least}", details={"field": name}
            )
    if rate is not None and not isinstance(rate, Rate):
        raise ConfigurationError("rate is a Rate", details={"field": "rate"})
    if isinstance(gpu, str):
        gpu = named_group(gpu)
    if gpu is not None and not isinstance(gpu, ResourceGroup):
        raise ConfigurationError(
            "gpu is a ResourceGroup, or the name of one", details={"field": "gpu"}
        )
    return AdmissionControl(
        max_concurrency,
        max_queue=max_queue,
        rate_limiter=RateLimiter(rate, max_queue) if rate is not None else None,
        resource_group=gpu,
    )


class BaseProvider(Closeable, llm.Provider, imagegen.Provider):
    """A provider may lack anything: what it does not override, it refuses."""

    name = ""

    def model(self, id: str, *options: llm.Option) -> llm.Model:
        raise UnsupportedError(f"{self.name} serves no chat models", provider=self.name, model=id)

    def image_model(self, id: str, *options: imagegen.Option) -> imagegen.Model:
        raise UnsupportedError(f"{self.name} serves no image models", provider=self.name, model=id)

    def embedding_model(self, id: str) -> EmbeddingModel:
        raise UnsupportedError(
            f"{self.name} serves no embedding models", provider=self.name, model=id
        )

    async def server(self) -> str:
        """Which software answers, with its version, where it tells so for free; else ""."""
        return ""

    def models_sync(self) -> list[ModelInfo]:
        return portal.run(self.models)

    def server_sync(self) -> str:
        return portal.run(self.server)

    def health_sync(self) -> Health:
        return portal.run(self.health)


class HTTPProvider(BaseProvider):
    """A provider behind an address."""

    version_path = (
        ""  # what follows the host in an address that a model string gives without a path
    )
    local = True  # waits for models to load; a hosted one does not
    basic_auth = False  # whether a key is "user:password"
    releases = False  # whether the backend can be asked to let go of a model's memory
    default_max_concurrency: int | None = (
        None  # calls at once unless `max_concurrency` says otherwise; a backend that is one GPU has one
    )

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
    ) -> None:
        headers = secrets = {
            name: as_secret(value) or Secret("") for name, value in (headers or {}).items()
        }
        if key is not None:
            if not key.fits_header():
                raise ConfigurationError(
                    "api_key holds characters no header has, or is empty",
                    provider=self.name,
                    details={"field": "api_key"},
                )
            secrets.update(self._key_headers(key))
        gate = make_admission(
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
                redact=Redactor([key, *secrets.values()], within=False),
            ),
            retries or Retries(),
            limits or Limits(),
            redact,
            load_check=self._load_check(),
            peers=provider_names,
            admission=gate,
            unload=self._unload_model if self.releases else None,
            observers=checked_observers(observers),
            address=self.address.origin,
            provider_instance=self,
        )

    def _key_headers(self, key: Secret) -> dict[str, Secret]:
        return {"Authorization": Secret(f"Bearer {key.reveal()}")}

    def _make_image_model(
        self,
        kind: Callable[..., M],
        codec: Any,
        id: str,
        options: Sequence[imagegen.Option],
        **more: Any,
    ) -> M:
        """An image model of this kind, with this provider's way of calling."""
        return kind(
            self._client,
            codec,
            check_name(id, "model"),
            options,
            timeout=self._image_timeout,
            strict=self._strict,
            **more,
        )

    def _make_embedding_model(self, codec: EmbeddingCodec, id: str) -> HTTPEmbeddingModel:
        return HTTPEmbeddingModel(
            self._client, codec, check_name(id, "model"), timeout=self._timeout
        )

    async def _unload_model(self, model: str) -> None:
        """Ask the backend to unload this model; only called where `releases` says that there is such a thing."""

    def _load_check(self) -> LoadCheck | None:
        """What tells loading from hanging while a first byte is awaited; None where nothing does."""
        return None

    async def _query(self, path: str, *, method: str = "GET", rooted: bool = False) -> bytes:
        """The answer to a question about the backend. Never queues behind the work."""
        return await self._client.query(
            HTTPRequest(method, path, from_origin=rooted), QUERY_TIMEOUT
        )

    async def _query_decoded(
        self,
        path: str,
        decode: Callable[[bytes, Limits], T],
        *,
        method: str = "GET",
        rooted: bool = False,
    ) -> T:
        """The same, as `decode` reads it."""
        return await self._client.query_decoded(
            HTTPRequest(method, path, from_origin=rooted), QUERY_TIMEOUT, decode
        )

    async def _check_health(self, path: str, *, rooted: bool = False) -> Health:
        began = time.monotonic()
        try:
            await self._client.read_body(
                HTTPRequest("GET", path, from_origin=rooted),
                self._client.deadline(QUERY_TIMEOUT),
                1 << 20,
            )
        except MajordomoError as error:
            return Health(False, error.message, error=error)
        return Health(True, "answers", time.monotonic() - began)

    async def aclose(self) -> None:
        """Close this event loop's connections, and those of the blocking calls; further calls are refused."""
        await self._client.transport.aclose()
        if portal.is_running() and not portal.is_portal_thread():
            await to_thread.run_sync(portal.run, self._client.transport.aclose)

    def __repr__(self) -> str:
        where = getattr(
            self, "address", None
        )  # absent when the constructor has failed, and a traceback shows its locals
        return (
            f"<{type(self).__name__} {where.origin}{where.path}>"
            if where
            else f"<{type(self).__name__}>"
        )
