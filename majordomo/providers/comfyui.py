"""ComfyUI: graphs of nodes, one queue, files. Facts: comfyanonymous/ComfyUI of late 2024 to 2026.

It has no keys, and whoever reaches its port can run graphs and read all images: never expose it. Uploads and images stay on its disk,
and SaveImage writes prompt and graph into each PNG.
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
from majordomo.models.queued_image_model import QueuedImageModel
from majordomo.providers.base import CommonSettings, HTTPProvider, with_secret_headers
from majordomo.redaction import Secret, as_secret


class ComfyUI(HTTPProvider):
    """ComfyUI: images, by a workflow.

    One image at a time (`max_concurrency` is 1 unless you say otherwise). A model id is a checkpoint's file name; "current" is the
    workflow's own, or without a workflow the first on the server's disk.

    Without `workflow`, built-in graphs for a plain checkpoint (Stable Diffusion 1, 2, XL) draw from text, from an image, and inside a
    mask. `workflow` is a graph in API format: a mapping, JSON text, or the path of a JSON file. What goes where is found by nodes' titles
    ("prompt", "negative", "seed"...), else by the links of its sampler, or said with `slots`: `{"prompt": ("6", "text")}`, node id and
    input; the names are prompt, negative_prompt, seed, steps, cfg_scale, sampler, scheduler, width, height, n, strength, images, mask
    and model. A field without a slot is a warning, images without one an UnsupportedError. An unset field leaves the workflow's own
    value, the seed too: the same image every time. Never take a workflow from somebody you do not trust.

    `extra={"comfyui": {"3": {"inputs": {"eta": 1}}}}` is merged into the graph by node id. A cancelled call leaves the queue, or interrupts
    the job when the server says that it is ours that runs. Steps and previews come over a websocket (extra `comfyui`); without it, as
    over a foreign transport, only the place in the queue is told. `api_key` is sent for a proxy in front of it.

    Raises ConfigurationError for an address that cannot be one, and for a workflow or slots that cannot be used.
    """

    name = "comfyui"
    default_max_concurrency: int | None = 1
    default_models: ClassVar[Mapping[str, str]] = {"image": CURRENT}

    def __init__(
        self,
        base_url: str = "http://localhost:8188",
        api_key: str | Secret | None = None,
        *,
        workflow: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        slots: Mapping[str, Any] | None = None,
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key)
        if slots is not None and workflow is None:
            raise ConfigurationError(
                "slots say where a workflow takes its values: give the workflow too",
                details={"field": "slots"},
            )
        self._codec = ComfyUICodec(
            None if workflow is None else Workflow.parse(_read(workflow), slots)
        )
        self._known: SamplerCatalog | None = None
        self._first: str | None = None
        super().__init__(base_url, api_key, **common)

    def image_model(self, id: str, *options: imagegen.Option) -> QueuedImageModel:
        return self._make_image_model(
            QueuedImageModel, self._codec, id, options, lists=self._lists, resolve=self._resolved
        )

    async def models(self) -> list[ModelInfo]:
        """The checkpoints on the server's disk, as its plain loader lists them; which one is in memory it does not tell."""
        return [ModelInfo(name, frozenset({"image", "edit"})) for name in await self._checkpoints()]

    async def samplers(self) -> list[str]:
        return list((await self._listed()).samplers or ())

    async def schedulers(self) -> list[str]:
        return list((await self._listed()).schedulers or ())

    def samplers_sync(self) -> list[str]:
        return portal.run(self.samplers)

    def schedulers_sync(self) -> list[str]:
        return portal.run(self.schedulers)

    async def health(self) -> Health:
        """Whether `GET /system_stats` answers."""
        return await self._check_health("/system_stats")

    async def server(self) -> str:
        return (
            f"ComfyUI {await self._query_decoded('/system_stats', decode_server_version)}".strip()
        )

    async def _checkpoints(self) -> tuple[str, ...]:
        node = "CheckpointLoaderSimple"
        return (
            await self._query_decoded(
                f"/object_info/{node}", lambda body, limits: decode_choices(body, node, limits)
            )
        ).get("ckpt_name", ())

    async def _resolved(self, model: str) -> str:
        """The checkpoint for a model id. Raises NotFoundError for "current" on a server without any."""
        if model != CURRENT or self._codec.custom_workflow is not None:
            return model
        if self._first is None:
            names = await self._checkpoints()
            if not names:
                raise NotFoundError(
                    "the server has no checkpoint", code="MODEL_NOT_FOUND", provider=self.name
                )
            self._first = names[0]
        return self._first

    async def _lists(self, model: str, request: imagegen.Request) -> SamplerCatalog:
        return await self._listed()

    async def _listed(self) -> SamplerCatalog:
        if self._known is None:
            try:
                found = await self._query_decoded(
                    "/object_info/KSampler",
                    lambda body, limits: sampler_catalog(decode_choices(body, "KSampler", limits)),
                )
            except (NotFoundError, BadResponseError):
                return SamplerCatalog()  # something in front of it answers only the routes of drawing: our own table must do
            self._known = found
        return self._known


def _read(workflow: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any] | str:
    """Text that begins like JSON is JSON, other text a path."""
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
