"""ComfyUI: graphs of nodes, one queue, and files.

ComfyUI has no keys: every client that reaches its port can run graphs and read all images, so never
expose it. Uploads and images stay on its disk, and SaveImage writes prompt and graph into each PNG.
Source: comfyanonymous/ComfyUI of late 2024 to 2026.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Unpack

from majordomo import imagegen
from majordomo.backend_status import Health, ModelInfo
from majordomo.concurrency import portal
from majordomo.dialects.comfyui.prompts import (
    CURRENT,
    ComfyUICodec,
    decode_choices,
    decode_server_version,
    sampler_catalog,
)
from majordomo.dialects.comfyui.workflow import Workflow
from majordomo.dialects.samplers import SamplerCatalog
from majordomo.errors import BadResponseError, ConfigurationError, NotFoundError
from majordomo.models.client import BackendCall
from majordomo.models.queued_image_model import QueuedImageModel
from majordomo.providers.base import CommonSettings, HTTPProvider, with_secret_headers
from majordomo.redaction import Secret, as_secret


class ComfyUI(HTTPProvider):
    """ComfyUI: images, by a workflow.

    The server makes one image at a time, so `max_concurrency` is 1 by default. A model id is the
    file name of a checkpoint; "current" is the checkpoint of the workflow, or without a workflow
    the first one on the server's disk.

    Without `workflow`, built-in graphs for a plain checkpoint (Stable Diffusion 1, 2, XL) do
    text-to-image, image-to-image and inpainting. With a workflow, a field without a slot is a
    warning, and input images without a slot are an UnsupportedError. A field that is not set keeps
    the value in the workflow. This includes the seed: without one, the image is the same every
    time.

    `extra={"comfyui": {"3": {"inputs": {"eta": 1}}}}` is merged into the graph by node id. A
    cancelled call is deleted from the queue, or interrupted if the server reports that its job is
    running. Steps and previews need a websocket (extra `comfyui`); without one, and with another
    `transport`, only the queue position is reported.

    Args:
        base_url: Address of the server.
        api_key: ComfyUI has no keys; one is sent for a proxy in front of it.
        workflow: A graph in API format: a mapping, JSON text, or the path of a JSON file. Never use
            a workflow from an untrusted source.
        slots: Where the workflow takes its values: node id and input per name, for example
            `{"prompt": ("6", "text")}`. The names are prompt, negative_prompt, seed, steps,
            cfg_scale, sampler, scheduler, width, height, n, strength, images, mask and model.
            Default: found by the titles of nodes ("prompt", "negative", "seed" and so on), else by
            the links of the sampler.
        **common: See `CommonSettings`.

    Raises:
        ConfigurationError: For an invalid address or key, and for a workflow or slots that cannot
            be used.
    """

    name = "comfyui"
    default_max_concurrency: int | None = 1
    default_models: ClassVar[Mapping[str, str]] = {"image": CURRENT}
    """Model ids, by kind of model, for a model string that names only the provider."""

    def __init__(
        self,
        base_url: str = "http://localhost:8188",
        *,
        api_key: str | Secret | None = None,
        workflow: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        slots: Mapping[str, Any] | None = None,
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key)
        if slots is not None and workflow is None:
            raise ConfigurationError(
                "slots need a workflow: pass workflow too",
                details={"field": "slots"},
            )
        self._codec = ComfyUICodec(
            None if workflow is None else Workflow.parse(_read_workflow(workflow), slots)
        )
        self._cached_catalog: SamplerCatalog | None = None
        self._first_checkpoint: str | None = None
        super().__init__(base_url, api_key, **common)

    def image_model(self, id: str, *options: imagegen.Option) -> QueuedImageModel:
        """Return an image model. `options` are defaults of its requests."""
        return self._make_image_model(
            QueuedImageModel,
            self._codec,
            id,
            options,
            sampler_catalog=self._sampler_catalog,
            resolve_model=self._resolve_model,
        )

    async def models(self) -> list[ModelInfo]:
        """Return the checkpoints on the server's disk, as its plain loader lists them.

        The server does not report which one is loaded.
        """
        return [ModelInfo(name, frozenset({"image", "edit"})) for name in await self._checkpoints()]

    async def samplers(self) -> list[str]:
        """Return the names of all samplers."""
        return list((await self._query_catalog()).samplers or ())

    async def schedulers(self) -> list[str]:
        """Return the names of all schedulers."""
        return list((await self._query_catalog()).schedulers or ())

    def samplers_sync(self) -> list[str]:
        """Return the names of all samplers (blocking)."""
        return portal.run(self.samplers)

    def schedulers_sync(self) -> list[str]:
        """Return the names of all schedulers (blocking)."""
        return portal.run(self.schedulers)

    async def health(self) -> Health:
        """Return whether `GET /system_stats` is answered."""
        return await self._check_health("/system_stats")

    async def server(self) -> str:
        """Return the name and version of the server."""
        return (
            f"ComfyUI {await self._query_decoded('/system_stats', decode_server_version)}".strip()
        )

    async def _checkpoints(self, call: BackendCall | None = None) -> tuple[str, ...]:
        node = "CheckpointLoaderSimple"
        return (
            await self._query_decoded(
                f"/object_info/{node}",
                lambda body, limits: decode_choices(body, node, limits),
                within=call,
            )
        ).get("ckpt_name", ())

    async def _resolve_model(self, model: str, call: BackendCall) -> str:
        """Return the checkpoint for a model id.

        Raises NotFoundError for "current" on a server without checkpoints.
        """
        if model != CURRENT or self._codec.custom_workflow is not None:
            return model
        if self._first_checkpoint is None:
            names = await self._checkpoints(call)
            if not names:
                raise NotFoundError(
                    "the server has no checkpoint; install one",
                    code="MODEL_NOT_FOUND",
                    provider=self.name,
                )
            self._first_checkpoint = names[0]
        return self._first_checkpoint

    async def _sampler_catalog(
        self, model: str, request: imagegen.Request, call: BackendCall
    ) -> SamplerCatalog:
        return await self._query_catalog(call)

    async def _query_catalog(self, call: BackendCall | None = None) -> SamplerCatalog:
        if self._cached_catalog is None:
            try:
                catalog = await self._query_decoded(
                    "/object_info/KSampler",
                    lambda body, limits: sampler_catalog(decode_choices(body, "KSampler", limits)),
                    within=call,
                )
            except (NotFoundError, BadResponseError):
                # A proxy that only forwards the routes of a generation: use the built-in table.
                return SamplerCatalog()
            self._cached_catalog = catalog
        return self._cached_catalog


def _read_workflow(workflow: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any] | str:
    """Return the graph. Text that begins like JSON is JSON, other text is a path."""
    if isinstance(workflow, Mapping):
        return workflow
    if isinstance(workflow, str) and workflow.lstrip()[:1] in ("{", "["):
        return workflow
    try:
        return Path(workflow).read_text(encoding="utf-8")
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise ConfigurationError(
            f"workflow cannot be read: {reason}", details={"field": "workflow"}
        ) from None
