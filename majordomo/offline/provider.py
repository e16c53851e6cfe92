"""The offline provider: the default backend, which needs no network, no key and no model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, TypeVar

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar

from majordomo import imagegen, llm
from majordomo.backend_status import Health, ModelInfo
from majordomo.errors import ConfigurationError
from majordomo.observability import Observer
from majordomo.observability.observed_call import checked_observers
from majordomo.offline.chat_model import OfflineChatModel
from majordomo.offline.image_model import OfflineImageModel
from majordomo.providers.base import BaseProvider, make_admission
from majordomo.queueing.admission import AdmissionControl
from majordomo.queueing.resource_group import ResourceGroup
from majordomo.settings import LOCAL, Limits, Rate, Timeout
from majordomo.transport_types import Deadline
from majordomo.validation import check_name

T = TypeVar("T")
PROCESSORS = os.cpu_count() or 1
_workers: RunVar[anyio.CapacityLimiter] = RunVar("majordomo-offline-workers")


class Offline(BaseProvider):
    """A provider that generates images and answers chats on this machine, without a neural network.

    There is one renderer ("renderer") and one rule-based chat ("rules"); any other model id is
    accepted and means the same. An image depends on every field of the request except `previews`,
    and equal requests give equal images. An unset seed is 0.

    Args:
        timeout: Only `total` and `idle` (one step in a worker thread) apply. A number is `total`,
            in seconds.
        max_concurrency: Number of images drawn at a time. Defaults to the number of processors.
        max_queue: Number of image requests that may wait. Unlimited by default.
        rate: Rate limits of image requests.
        gpu: Resource group, or its name, that image requests share with other providers.
        strict: Raise `UnsupportedError` for fields without effect instead of adding a warning.
        limits: Limits on the size of requests and images.
        observers: Observers of all calls.

    Raises:
        ConfigurationError: An argument has a value that is not allowed.

    Example:
        ```pycon
        >>> offline = md.Offline()
        >>> result = await offline.image_model("renderer").generate("a lighthouse", seed=7)
        >>> reply = await offline.model("rules").generate([md.user("Colors?", result.image)])
        ```
    """

    name = "offline"
    default_models: ClassVar[Mapping[str, str]] = {"chat": "rules", "image": "renderer"}
    """Model ids, by kind of model, for a model string that names only the provider."""

    def __init__(
        self,
        *,
        timeout: Timeout | float | None = None,
        max_concurrency: int | None = None,
        max_queue: int | None = None,
        rate: Rate | None = None,
        gpu: ResourceGroup | str | None = None,
        strict: bool = False,
        limits: Limits | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        if timeout is not None and not isinstance(timeout, Timeout):
            timeout = Timeout(total=timeout)
        self._timeout = (timeout or Timeout()).with_defaults(LOCAL)
        self.admission: AdmissionControl = make_admission(
            max_concurrency if max_concurrency is not None else PROCESSORS, max_queue, rate, gpu
        )
        self._strict = strict
        self._limits = limits or Limits()
        self._observers = checked_observers(observers)
        self._closed = False

    def model(self, id: str, *options: llm.Option) -> OfflineChatModel:
        """Return the rule-based chat model.

        Args:
            id: Any valid model id.
            *options: Defaults for every request.

        Raises:
            InvalidRequestError: The id is not a valid model name.
        """
        return OfflineChatModel(self, check_name(id, "model"), options)

    def image_model(self, id: str, *options: imagegen.Option) -> OfflineImageModel:
        """Return the renderer as an image model.

        Args:
            id: Any valid model id.
            *options: Defaults for every request.

        Raises:
            InvalidRequestError: The id is not a valid model name.
        """
        return OfflineImageModel(self, check_name(id, "model"), options)

    async def models(self) -> list[ModelInfo]:
        """Return the chat model and the image model; both are always ready."""
        return [
            ModelInfo(
                "rules",
                frozenset({"chat", "vision", "tools"}),
                True,
                "ready",
                "rule-based chat that looks at images",
            ),
            ModelInfo(
                "renderer",
                frozenset({"image", "edit"}),
                True,
                "ready",
                "renderer without a neural network",
            ),
        ]

    async def health(self) -> Health:
        """Return that the provider is available, which is always so."""
        return Health(True, "always available", 0.0)

    async def aclose(self) -> None:
        """Refuse further calls with `ConfigurationError` (CLOSED). Nothing else needs closing."""
        self._closed = True

    def close(self) -> None:
        """Do the same as `aclose`, from sync code."""
        self._closed = True

    def __repr__(self) -> str:
        return "<Offline>"

    async def run_in_thread(self, job: Callable[[], T], deadline: Deadline) -> T:
        """Run one job in a worker thread, at most one per processor; cancellation abandons it.

        Raises:
            ConfigurationError: The provider is closed (CLOSED).
            DeadlineExceededError: The job took longer than `deadline` allows.
        """
        if self._closed:
            raise ConfigurationError("the provider is closed", code="CLOSED")
        try:
            limiter = _workers.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(PROCESSORS)
            _workers.set(limiter)
        deadline.start_phase("idle")
        with anyio.move_on_after(deadline.next_timeout()):
            return await to_thread.run_sync(job, abandon_on_cancel=True, limiter=limiter)
        raise deadline.exceeded()
