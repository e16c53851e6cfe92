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
    decode_fetch,
    decode_search,
    decode_status,
    encode_fetch,
    encode_search,
)
from majordomo.dialects.ollama.admin import (
    CreateFields,
    Generated,
    GenerateFields,
    PullProgress,
    check_digest,
    encode_create,
    encode_generate,
    model_request,
)
from majordomo.dialects.request_body import json_request
from majordomo.errors import BadResponseError, MajordomoError, NotFoundError
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.json import decode_object
from majordomo.models.client import BackendClient
from majordomo.providers.ollama.blobs import digested
from majordomo.providers.ollama.chat_model import EnsureVision
from majordomo.providers.ollama.json_lines_run import (
    JSONLinesRun,
    ProgressReader,
    SyncTaskEventStream,
    TaskEventStream,
    TextReader,
)
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import HTTPRequest
from majordomo.validation import check_name

T = TypeVar("T")
Tell = Callable[[PullProgress], None]


class OllamaAdmin:
    """What Ollama does besides answering. Every method raises MajordomoError's kinds: NotFoundError for a model that is not there,
    BackendError for what the server reports in mid-stream. Each has a blocking `..._sync` beside it.

    Long work (`pull`, `push`, `create`) has no limit in all unless the provider was given one; `tell` is called with each `Progress`, in
    the loop of the call (the blocking form: in that of the blocking calls). `stream_pull` and its like give the same to a loop of yours.
    Leaving the call or the stream stops it; a pull that was stopped goes on where it was.
    """

    def __init__(
        self,
        client: BackendClient,
        ask: Callable[..., Awaitable[bytes]],
        timeout: Timeout,
        *,
        look: EnsureVision,
        hosted: bool,
    ) -> None:
        self._client = client
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
        request = model_request("POST", "/api/show", model, verbose=verbose or None)
        return self._told(_document, await self._fetch(request))

    # Models come and go

    async def pull(
        self, model: str, *, insecure: bool = False, on_event: Tell | None = None
    ) -> None:
        """Fetch a model from its registry."""
        await self._carrying("/api/pull", model, insecure).result(on_event)

    async def push(
        self, model: str, *, insecure: bool = False, on_event: Tell | None = None
    ) -> None:
        """Send a model, `namespace/name:tag`, to its registry."""
        await self._carrying("/api/push", model, insecure).result(on_event)

    async def create(
        self, model: str, *, on_event: Tell | None = None, **fields: Unpack[CreateFields]
    ) -> None:
        """Make a model from another one (`from_model`) or from files sent before (`files`: names and digests, see `upload`)."""
        await self._creating(model, fields).result(on_event)

    def stream_pull(
        self, model: str, *, insecure: bool = False
    ) -> AbstractAsyncContextManager[TaskEventStream[PullProgress, PullProgress]]:
        """`async with admin.stream_pull(model) as stream: async for progress in stream: ...`. A failure is raised by the iteration."""
        return self._carrying("/api/pull", model, insecure).stream()

    def stream_push(
        self, model: str, *, insecure: bool = False
    ) -> AbstractAsyncContextManager[TaskEventStream[PullProgress, PullProgress]]:
        return self._carrying("/api/push", model, insecure).stream()

    def stream_create(
        self, model: str, **fields: Unpack[CreateFields]
    ) -> AbstractAsyncContextManager[TaskEventStream[PullProgress, PullProgress]]:
        return self._creating(model, fields).stream()

    async def copy(self, source: str, destination: str) -> None:
        body = {
            "source": check_name(source, "source"),
            "destination": check_name(destination, "destination"),
        }
        await self._fetch(json_request("/api/copy", body, {}, Splices()))

    async def delete(self, model: str) -> None:
        await self._fetch(model_request("DELETE", "/api/delete", model))

    async def has_blob(self, digest: str) -> bool:
        try:
            await self._fetch(HTTPRequest("HEAD", f"/api/blobs/{check_digest(digest)}"))
        except NotFoundError:
            return False
        return True

    async def upload(self, file: bytes | str | Path) -> str:
        """Send a file as a blob, unless the server has it; returns its digest, for `create`."""
        body, name = await to_thread.run_sync(digested, file)
        if not await self.has_blob(name):
            await self._fetch(
                HTTPRequest("POST", f"/api/blobs/{name}", body, "application/octet-stream")
            )
        return name

    # Work

    async def load(self, model: str, *, keep_alive: str | float | None = None) -> None:
        """Bring a model into memory. keep_alive: seconds, or a duration as "10m"; negative keeps it for ever."""
        await self.generate(model, "", keep_alive=keep_alive)

    async def unload(self, model: str) -> None:
        """Take a model out of memory. The server does so after it has answered: `ps` may list the model for a moment more."""
        await self.generate(model, "", keep_alive=0)

    async def generate(
        self,
        model: str,
        prompt: str,
        *,
        on_event: Callable[[str], None] | None = None,
        **fields: Unpack[GenerateFields],
    ) -> Generated:
        """Completion of a prompt, without the form of a chat; `tell` is called with each piece of text."""
        return await self._completing(model, prompt, fields).result(on_event)

    def stream_generate(
        self, model: str, prompt: str, **fields: Unpack[GenerateFields]
    ) -> AbstractAsyncContextManager[TaskEventStream[str, Generated]]:
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
        request = encode_search(query, max_results, self._client.limits, hosted=self._hosted)
        return self._told(decode_search, await self._fetch(request))

    async def web_fetch(self, url: str) -> WebPage:
        """The text of a page, which the service reads, not this program."""
        return self._told(
            decode_fetch,
            await self._fetch(encode_fetch(url, self._client.limits, hosted=self._hosted)),
        )

    # The blocking forms

    def version_sync(self) -> str:
        return portal.run(self.version)

    def tags_sync(self) -> list[dict[str, Any]]:
        return portal.run(self.tags)

    def ps_sync(self) -> list[dict[str, Any]]:
        return portal.run(self.ps)

    def show_sync(self, model: str, *, verbose: bool = False) -> dict[str, Any]:
        return portal.run(lambda: self.show(model, verbose=verbose))

    def pull_sync(
        self, model: str, *, insecure: bool = False, on_event: Tell | None = None
    ) -> None:
        portal.run(lambda: self.pull(model, insecure=insecure, on_event=on_event))

    def push_sync(
        self, model: str, *, insecure: bool = False, on_event: Tell | None = None
    ) -> None:
        portal.run(lambda: self.push(model, insecure=insecure, on_event=on_event))

    def create_sync(
        self, model: str, *, on_event: Tell | None = None, **fields: Unpack[CreateFields]
    ) -> None:
        portal.run(lambda: self.create(model, on_event=on_event, **fields))

    def stream_pull_sync(
        self, model: str, *, insecure: bool = False
    ) -> AbstractContextManager[SyncTaskEventStream[PullProgress, PullProgress]]:
        return self._carrying("/api/pull", model, insecure).stream_sync()

    def stream_push_sync(
        self, model: str, *, insecure: bool = False
    ) -> AbstractContextManager[SyncTaskEventStream[PullProgress, PullProgress]]:
        return self._carrying("/api/push", model, insecure).stream_sync()

    def stream_create_sync(
        self, model: str, **fields: Unpack[CreateFields]
    ) -> AbstractContextManager[SyncTaskEventStream[PullProgress, PullProgress]]:
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
        self,
        model: str,
        prompt: str,
        *,
        on_event: Callable[[str], None] | None = None,
        **fields: Unpack[GenerateFields],
    ) -> Generated:
        return portal.run(lambda: self.generate(model, prompt, on_event=on_event, **fields))

    def stream_generate_sync(
        self, model: str, prompt: str, **fields: Unpack[GenerateFields]
    ) -> AbstractContextManager[SyncTaskEventStream[str, Generated]]:
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

    def _carrying(
        self, path: str, model: str, insecure: bool
    ) -> JSONLinesRun[PullProgress, PullProgress]:
        return self._long(
            model_request("POST", path, model, stream=True, insecure=insecure or None), model
        )

    def _creating(
        self, model: str, fields: CreateFields
    ) -> JSONLinesRun[PullProgress, PullProgress]:
        return self._long(encode_create(model, fields), model)

    def _long(self, request: HTTPRequest, model: str) -> JSONLinesRun[PullProgress, PullProgress]:
        # Between two frames a layer is verified or quantized: minutes without a word are no failure
        return JSONLinesRun(
            self._client,
            request,
            ProgressReader,
            Timeout(first_byte=None, idle=None).with_defaults(self._timeout),
            model,
        )

    def _completing(
        self, model: str, prompt: str, fields: GenerateFields
    ) -> JSONLinesRun[str, Generated]:
        limits = self._client.limits
        request = encode_generate(model, prompt, fields, limits)
        first = (lambda: self._look(model)) if fields.get("images") else None
        return JSONLinesRun(
            self._client,
            request,
            lambda: TextReader(limits),
            self._timeout,
            model,
            counts_as_call=True,
            first=first,
        )

    async def _fetch(self, request: HTTPRequest) -> bytes:
        try:
            return await self._client.read_body(
                request, self._client.deadline(self._timeout), self._client.limits.max_reply_bytes
            )
        except MajordomoError as error:
            raise self._client.with_context(error) from None

    def _told(self, decode: Callable[[bytes, Limits], T], body: bytes) -> T:
        try:
            return decode(body, self._client.limits)
        except MajordomoError as error:
            del body  # the frames that hold the answer may quote a key
            raise self._client.with_context(error).with_traceback(None) from None

    async def _get(self, path: str) -> dict[str, Any]:
        return self._told(_document, await self._ask(path))


def _document(body: bytes, limits: Limits) -> dict[str, Any]:
    return decode_object(body, limits.max_json_depth)


def _list(document: dict[str, Any]) -> list[dict[str, Any]]:
    models = document.get("models")
    if models is None:  # Go writes an empty list as null
        return []
    if not isinstance(models, list):
        raise BadResponseError('the answer has no list "models"')
    return [item for item in models if isinstance(item, dict)]
