"""The administration of an Ollama server."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from majordomo.dialects.bodies import json_request
from majordomo.dialects.ollama_admin import (
    Generated,
    Generation,
    Progress,
    check_digest,
    decode_frame,
    decode_progress,
    encode_generate,
    named,
)
from majordomo.errors import BackendError, InvalidRequestError, MajordomoError, NotFoundError, StreamBrokenError
from majordomo.flows.call import Caller
from majordomo.framing.json import decode_object
from majordomo.framing.lines import JSONLinesDecoder
from majordomo.framing.splice import Splices
from majordomo.llm.tools import output_schema
from majordomo.media import ImagePart
from majordomo.settings import Timeout
from majordomo.wire import Upload, WireRequest
from majordomo.words import check_name

Tell = Callable[[Progress], None]
PIECE = 1 << 20


class OllamaAdmin:
    """What Ollama does besides answering. Every method raises MajordomoError's kinds: NotFoundError for a model that is not there,
    BackendError for what the server reports in mid-stream.

    Long work (`pull`, `push`, `create`) has no limit in all unless the provider was given one; `tell` is called with each `Progress`, in
    the loop of the call. Leaving the call stops it; a pull that was stopped goes on where it was.
    """

    def __init__(self, caller: Caller, ask: Callable[..., Awaitable[bytes]], timeout: Timeout) -> None:
        self._caller = caller
        self._ask = ask
        self._timeout = timeout

    async def version(self) -> str:
        return str((await self._get("/api/version")).get("version", ""))

    async def tags(self) -> list[dict[str, Any]]:
        """The models pulled, as the server lists them."""
        return _list(await self._get("/api/tags"))

    async def ps(self) -> list[dict[str, Any]]:
        """The models in memory: size, size_vram, expires_at, context_length."""
        return _list(await self._get("/api/ps"))

    async def show(self, model: str, *, verbose: bool = False) -> dict[str, Any]:
        """Details, template, parameters, capabilities and `model_info` of one model."""
        return await self._whole(named("POST", "/api/show", model, verbose=verbose or None))

    async def pull(self, model: str, *, insecure: bool = False, tell: Tell | None = None) -> None:
        """Fetch a model from its registry."""
        await self._progress(named("POST", "/api/pull", model, stream=True, insecure=insecure or None), tell)

    async def push(self, model: str, *, insecure: bool = False, tell: Tell | None = None) -> None:
        """Send a model, `namespace/name:tag`, to its registry."""
        await self._progress(named("POST", "/api/push", model, stream=True, insecure=insecure or None), tell)

    async def create(
        self,
        model: str,
        *,
        from_model: str | None = None,
        files: Mapping[str, str] | None = None,
        adapters: Mapping[str, str] | None = None,
        template: str | None = None,
        system: str | None = None,
        license: str | Sequence[str] | None = None,  # noqa: A002 (the API's word)
        parameters: Mapping[str, Any] | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        quantize: str | None = None,
        renderer: str | None = None,
        parser: str | None = None,
        requires: str | None = None,
        extra: Mapping[str, Any] | None = None,
        tell: Tell | None = None,
    ) -> None:
        """Make a model. `files` and `adapters` are names and digests of blobs sent before (`upload`); `extra` holds fields not named
        here."""
        if not (from_model or files):
            raise InvalidRequestError("a model is made from another one, or from files", field="from_model")
        for digest in {**(files or {}), **(adapters or {})}.values():
            check_digest(digest)
        fields = {
            "from": from_model,
            "files": files,
            "adapters": adapters,
            "template": template,
            "system": system,
            "license": license,
            "parameters": parameters,
            "messages": messages,
            "quantize": quantize,
            "renderer": renderer,
            "parser": parser,
            "requires": requires,
            **(extra or {}),
        }
        await self._progress(named("POST", "/api/create", model, stream=True, **fields), tell)

    async def copy(self, source: str, destination: str) -> None:
        body = {"source": check_name(source, "source"), "destination": check_name(destination, "destination")}
        await self._fetch(json_request("/api/copy", body, {}, Splices()))

    async def delete(self, model: str) -> None:
        await self._fetch(named("DELETE", "/api/delete", model))

    async def has_blob(self, digest: str) -> bool:
        try:
            await self._fetch(WireRequest("HEAD", f"/api/blobs/{check_digest(digest)}"))
        except NotFoundError:
            return False
        return True

    async def upload(self, file: bytes | str | Path) -> str:
        """Send a file as a blob, unless the server has it; returns its digest, for `create`."""
        from anyio import to_thread

        body, name = await to_thread.run_sync(_digested, file)
        if not await self.has_blob(name):
            await self._fetch(WireRequest("POST", f"/api/blobs/{name}", body, "application/octet-stream"))
        return name

    async def load(self, model: str, *, keep_alive: str | float | None = None) -> None:
        """Bring a model into memory. keep_alive: seconds, or a duration as "10m"; negative keeps it for ever."""
        await self.generate(model, "", keep_alive=keep_alive)

    async def unload(self, model: str) -> None:
        """Take a model out of memory now."""
        await self.generate(model, "", keep_alive=0)

    async def generate(
        self,
        model: str,
        prompt: str,
        *,
        suffix: str | None = None,
        system: str | None = None,
        template: str | None = None,
        images: Sequence[ImagePart] = (),
        output: Any = None,
        options: Mapping[str, Any] | None = None,
        think: bool | str | None = None,
        raw: bool = False,
        keep_alive: str | float | None = None,
        context: Sequence[int] | None = None,
        extra: Mapping[str, Any] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> Generated:
        """Completion of a prompt, without the form of a chat. `output` is a schema or a pydantic model (`format`), "json" for any JSON;
        `extra` holds fields not named here; `tell` is called with each piece of text."""
        fields: dict[str, Any] = {
            "suffix": suffix,
            "system": system,
            "template": template,
            "format": output if output is None or output == "json" else output_schema(output),
            "options": options,
            "think": think,
            "raw": raw or None,
            "keep_alive": keep_alive,
            "context": None if context is None else list(context),
            **(extra or {}),
        }
        request = encode_generate(model, prompt, images, fields, self._caller.limits)
        generation = Generation()

        def take(frame: dict[str, Any]) -> bool:
            text = generation.take(frame, self._caller.limits)
            if text and tell is not None:
                tell(text)
            return generation.done is not None

        deadline = self._caller.deadline(self._timeout, model)
        place = await self._caller.enter(deadline, model)
        try:
            await self._frames(request, take, deadline)
        finally:
            place.leave()
        return generation.whole()

    async def _progress(self, request: WireRequest, tell: Tell | None) -> None:
        last = ""

        def take(frame: dict[str, Any]) -> bool:
            nonlocal last
            progress = decode_progress(frame)
            last = progress.status
            if tell is not None:
                tell(progress)
            return last == "success"

        # Between two frames a layer is verified or quantized: minutes without a word are no failure
        await self._frames(request, take, self._caller.deadline(Timeout(first_byte=None, idle=None).over(self._timeout)))
        if last != "success":
            error = StreamBrokenError(f"the work ended without success, at: {last or 'nothing'}", partial=last)
            raise error.about(self._caller.provider)

    async def _frames(self, request: WireRequest, take: Callable[[dict[str, Any]], bool], deadline: Any) -> None:
        limits = self._caller.limits
        try:
            stream = await self._caller.open(request, deadline)
        except MajordomoError as error:
            raise self._caller.about(error) from None
        try:
            lines = JSONLinesDecoder(limits.event)
            while piece := await stream.read():
                for line in lines.feed(piece):
                    if take(decode_frame(line, limits)):
                        await stream.finish()
                        return
            for line in lines.finish():
                take(decode_frame(line, limits))
        except MajordomoError as error:
            raise self._caller.about(error) from None
        finally:
            await stream.aclose()

    async def _fetch(self, request: WireRequest) -> bytes:
        try:
            return await self._caller.fetch(request, self._caller.deadline(self._timeout), self._caller.limits.reply)
        except MajordomoError as error:
            raise self._caller.about(error) from None

    async def _whole(self, request: WireRequest) -> dict[str, Any]:
        return decode_object(await self._fetch(request), self._caller.limits.depth)

    async def _get(self, path: str) -> dict[str, Any]:
        return decode_object(await self._ask(path), self._caller.limits.depth)


def _digested(file: bytes | str | Path) -> tuple[bytes | Upload, str]:
    body: bytes | _File = file if isinstance(file, bytes) else _File(Path(file), Path(file).stat().st_size)
    digest = hashlib.sha256()
    for piece in [body] if isinstance(body, bytes) else body.pieces():
        digest.update(piece)
    return body, f"sha256:{digest.hexdigest()}"


@dataclass(slots=True)
class _File:
    """A file as a body: read while it leaves."""

    path: Path
    length: int

    def pieces(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece


def _list(document: dict[str, Any]) -> list[dict[str, Any]]:
    models = document.get("models")
    if models is None:  # Go writes an empty list as null
        return []
    if not isinstance(models, list):
        raise BackendError('the answer has no list "models"')
    return [item for item in models if isinstance(item, dict)]
