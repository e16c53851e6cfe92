"""The administration of an Ollama server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar, Unpack

from anyio import to_thread

from majordomo.concurrency import portal
from majordomo.dialects.ollama.account import (
    Account,
    CloudStatus,
    SearchResult,
    WebPage,
    decode_account,
    decode_search,
    decode_status,
    decode_visit,
    encode_search,
    encode_visit,
)
from majordomo.dialects.ollama.admin import Completion, Creation, Generated, Progress, check_digest, encode_create, encode_generate, named
from majordomo.dialects.request_body import json_request
from majordomo.errors import BadResponseError, MajordomoError, NotFoundError
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.json import decode_object
from majordomo.models.client import Caller
from majordomo.providers.ollama.blobs import digested
from majordomo.providers.ollama.chat_model import Look
from majordomo.providers.ollama.json_lines_run import ProgressReading, SyncWorkStream, TextReading, Work, WorkStream
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import WireRequest
from majordomo.validation import check_name

T = TypeVar("T")
Tell = Callable[[Progress], None]


class OllamaAdmin:
    """What Ollama does besides answering. Every method raises MajordomoError's kinds: NotFoundError for a model that is not there,
    BackendError for what the server reports in mid-stream. Each has a blocking `..._sync` beside it.

    Long work (`pull`, `push`, `create`) has no limit in all unless the provider was given one; `tell` is called with each `Progress`, in
    the loop of the call (the blocking form: in that of the blocking calls). `stream_pull` and its like give the same to a loop of yours.
    Leaving the call or the stream stops it; a pull that was stopped goes on where it was.
    """

    def __init__(self, caller: Caller, ask: Callable[..., Awaitable[bytes]], timeout: Timeout, *, look: Look, hosted: bool) -> None:
        self._caller = caller
        self._ask = ask
        self._timeout = timeout
        self._look = look
        self._hosted = hosted

    # What is there

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
        request = named("POST", "/api/show", model, verbose=verbose or None)
        return self._told(_document, await self._fetch(request))

    # Models come and go

    async def pull(self, model: str, *, insecure: bool = False, tell: Tell | None = None) -> None:
        """Fetch a model from its registry."""
        await self._carrying("/api/pull", model, insecure).done(tell)

    async def push(self, model: str, *, insecure: bool = False, tell: Tell | None = None) -> None:
        """Send a model, `namespace/name:tag`, to its registry."""
        await self._carrying("/api/push", model, insecure).done(tell)

    async def create(self, model: str, *, tell: Tell | None = None, **fields: Unpack[Creation]) -> None:
        """Make a model from another one (`from_model`) or from files sent before (`files`: names and digests, see `upload`)."""
        await self._creating(model, fields).done(tell)

    def stream_pull(self, model: str, *, insecure: bool = False) -> AbstractAsyncContextManager[WorkStream[Progress, Progress]]:
        """`async with admin.stream_pull(model) as stream: async for progress in stream: ...`. A failure is raised by the iteration."""
        return self._carrying("/api/pull", model, insecure).stream()

    def stream_push(self, model: str, *, insecure: bool = False) -> AbstractAsyncContextManager[WorkStream[Progress, Progress]]:
        return self._carrying("/api/push", model, insecure).stream()

    def stream_create(self, model: str, **fields: Unpack[Creation]) -> AbstractAsyncContextManager[WorkStream[Progress, Progress]]:
        return self._creating(model, fields).stream()

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
        body, name = await to_thread.run_sync(digested, file)
        if not await self.has_blob(name):
            await self._fetch(WireRequest("POST", f"/api/blobs/{name}", body, "application/octet-stream"))
        return name

    # Work

    async def load(self, model: str, *, keep_alive: str | float | None = None) -> None:
        """Bring a model into memory. keep_alive: seconds, or a duration as "10m"; negative keeps it for ever."""
        await self.generate(model, "", keep_alive=keep_alive)

    async def unload(self, model: str) -> None:
        """Take a model out of memory. The server does so after it has answered: `ps` may list the model for a moment more."""
        await self.generate(model, "", keep_alive=0)

    async def generate(
        self, model: str, prompt: str, *, tell: Callable[[str], None] | None = None, **fields: Unpack[Completion]
    ) -> Generated:
        """Completion of a prompt, without the form of a chat; `tell` is called with each piece of text."""
        return await self._completing(model, prompt, fields).done(tell)

    def stream_generate(
        self, model: str, prompt: str, **fields: Unpack[Completion]
    ) -> AbstractAsyncContextManager[WorkStream[str, Generated]]:
        """The pieces of text; the whole is in `stream.result` after the last."""
        return self._completing(model, prompt, fields).stream()

    # The hosted service

    async def status(self) -> CloudStatus:
        """Whether the server keeps away from the hosted service."""
        return self._told(decode_status, await self._ask("/api/status"))

    async def account(self) -> Account:
        """Who is signed in. Raises AuthenticationError, with the `signin_url` in its details, when nobody is."""
        return self._told(decode_account, await self._ask("/api/me", method="POST"))

    async def web_search(self, query: str, max_results: int | None = None) -> list[SearchResult]:
        """Pages about something, at most `max_results` (1 to 10; the service takes 5). At https://ollama.com it needs a key; any other
        server asks for its account. Raises AuthenticationError as `account` does."""
        request = encode_search(query, max_results, self._caller.limits, hosted=self._hosted)
        return self._told(decode_search, await self._fetch(request))

    async def web_fetch(self, url: str) -> WebPage:
        """The text of a page, which the service reads, not this program."""
        return self._told(decode_visit, await self._fetch(encode_visit(url, self._caller.limits, hosted=self._hosted)))

    # The blocking forms

    def version_sync(self) -> str:
        return portal.run(self.version)

    def tags_sync(self) -> list[dict[str, Any]]:
        return portal.run(self.tags)

    def ps_sync(self) -> list[dict[str, Any]]:
        return portal.run(self.ps)

    def show_sync(self, model: str, *, verbose: bool = False) -> dict[str, Any]:
        return portal.run(lambda: self.show(model, verbose=verbose))

    def pull_sync(self, model: str, *, insecure: bool = False, tell: Tell | None = None) -> None:
        portal.run(lambda: self.pull(model, insecure=insecure, tell=tell))

    def push_sync(self, model: str, *, insecure: bool = False, tell: Tell | None = None) -> None:
        portal.run(lambda: self.push(model, insecure=insecure, tell=tell))

    def create_sync(self, model: str, *, tell: Tell | None = None, **fields: Unpack[Creation]) -> None:
        portal.run(lambda: self.create(model, tell=tell, **fields))

    def stream_pull_sync(self, model: str, *, insecure: bool = False) -> AbstractContextManager[SyncWorkStream[Progress, Progress]]:
        return self._carrying("/api/pull", model, insecure).stream_sync()

    def stream_push_sync(self, model: str, *, insecure: bool = False) -> AbstractContextManager[SyncWorkStream[Progress, Progress]]:
        return self._carrying("/api/push", model, insecure).stream_sync()

    def stream_create_sync(self, model: str, **fields: Unpack[Creation]) -> AbstractContextManager[SyncWorkStream[Progress, Progress]]:
        return self._creating(model, fields).stream_sync()

    def copy_sync(self, source: str, destination: str) -> None:
        portal.run(lambda: self.copy(source, destination))

    def delete_sync(self, model: str) -> None:
        portal.run(lambda: self.delete(model))

    def has_blob_sync(self, digest: str) -> bool:
        return portal.run(lambda: self.has_blob(digest))

    def upload_sync(self, file: bytes | str | Path) -> str:
        return portal.run(lambda: self.upload(file))

    def load_sync(self, model: str, *, keep_alive: str | float | None = None) -> None:
        portal.run(lambda: self.load(model, keep_alive=keep_alive))

    def unload_sync(self, model: str) -> None:
        portal.run(lambda: self.unload(model))

    def generate_sync(
        self, model: str, prompt: str, *, tell: Callable[[str], None] | None = None, **fields: Unpack[Completion]
    ) -> Generated:
        return portal.run(lambda: self.generate(model, prompt, tell=tell, **fields))

    def stream_generate_sync(
        self, model: str, prompt: str, **fields: Unpack[Completion]
    ) -> AbstractContextManager[SyncWorkStream[str, Generated]]:
        return self._completing(model, prompt, fields).stream_sync()

    def status_sync(self) -> CloudStatus:
        return portal.run(self.status)

    def account_sync(self) -> Account:
        return portal.run(self.account)

    def web_search_sync(self, query: str, max_results: int | None = None) -> list[SearchResult]:
        return portal.run(lambda: self.web_search(query, max_results))

    def web_fetch_sync(self, url: str) -> WebPage:
        return portal.run(lambda: self.web_fetch(url))

    # How

    def _carrying(self, path: str, model: str, insecure: bool) -> Work[Progress, Progress]:
        return self._long(named("POST", path, model, stream=True, insecure=insecure or None), model)

    def _creating(self, model: str, fields: Creation) -> Work[Progress, Progress]:
        return self._long(encode_create(model, fields), model)

    def _long(self, request: WireRequest, model: str) -> Work[Progress, Progress]:
        # Between two frames a layer is verified or quantized: minutes without a word are no failure
        return Work(self._caller, request, ProgressReading, Timeout(first_byte=None, idle=None).over(self._timeout), model)

    def _completing(self, model: str, prompt: str, fields: Completion) -> Work[str, Generated]:
        limits = self._caller.limits
        request = encode_generate(model, prompt, fields, limits)
        first = (lambda: self._look(model)) if fields.get("images") else None
        return Work(self._caller, request, lambda: TextReading(limits), self._timeout, model, gated=True, first=first)

    async def _fetch(self, request: WireRequest) -> bytes:
        try:
            return await self._caller.fetch(request, self._caller.deadline(self._timeout), self._caller.limits.reply)
        except MajordomoError as error:
            raise self._caller.about(error) from None

    def _told(self, decode: Callable[[bytes, Limits], T], body: bytes) -> T:
        try:
            return decode(body, self._caller.limits)
        except MajordomoError as error:
            del body  # the frames that hold the answer may quote a key
            raise self._caller.about(error).with_traceback(None) from None

    async def _get(self, path: str) -> dict[str, Any]:
        return self._told(_document, await self._ask(path))


def _document(body: bytes, limits: Limits) -> dict[str, Any]:
    return decode_object(body, limits.depth)


def _list(document: dict[str, Any]) -> list[dict[str, Any]]:
    models = document.get("models")
    if models is None:  # Go writes an empty list as null
        return []
    if not isinstance(models, list):
        raise BadResponseError('the answer has no list "models"')
    return [item for item in models if isinstance(item, dict)]
