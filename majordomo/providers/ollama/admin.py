"""The administration of an Ollama server: models, blobs, plain generation, the hosted service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, Unpack

from anyio import to_thread

from majordomo.concurrency import portal
from majordomo.concurrency.event_stream import EventStream, SyncEventStream
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
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.json import decode_object
from majordomo.models.client import BackendClient
from majordomo.providers.ollama.blobs import body_and_digest
from majordomo.providers.ollama.chat_model import EnsureVision
from majordomo.providers.ollama.json_lines_run import (
    JSONLinesRun,
    ProgressReader,
    TextReader,
)
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import HTTPRequest
from majordomo.validation import check_name

T = TypeVar("T")
OnProgress = Callable[[PullProgress], None]


class OllamaAdmin:
    """The administration of an Ollama server. Use it as `provider.admin`.

    Every method has a blocking version, `..._sync`. All raise MajordomoError: NotFoundError for a
    model that does not exist, BackendError for an error that the server reports in mid-stream.

    Long operations (`pull`, `push`, `create`) have no total limit unless the provider was given
    one. They call `on_event` with each `PullProgress`, in the event loop of the call; the blocking
    versions call it in the portal's event loop. `stream_pull`, `stream_push` and `stream_create`
    yield the same values. Cancelling the call or leaving the stream stops the operation; an
    interrupted pull continues where it was when it is called again.
    """

    def __init__(
        self,
        client: BackendClient,
        query: Callable[..., Awaitable[bytes]],
        timeout: Timeout,
        *,
        ensure_vision: EnsureVision,
        hosted: bool,
    ) -> None:
        self._client = client
        self._query = query
        self._timeout = timeout
        self._ensure_vision = ensure_vision
        self._hosted = hosted

    # Models and their state

    async def version(self) -> str:
        """Return the server's version."""
        return str((await self._get("/api/version")).get("version", ""))

    async def tags(self) -> list[dict[str, Any]]:
        """Return the models on the server's disk, as the server lists them."""
        return _model_list(await self._get("/api/tags"))

    async def ps(self) -> list[dict[str, Any]]:
        """Return the models in memory.

        Each has size, size_vram, expires_at and context_length.
        """
        return _model_list(await self._get("/api/ps"))

    async def show(self, model: str, *, verbose: bool = False) -> dict[str, Any]:
        """Return the details, template, parameters, capabilities and `model_info` of a model.

        `verbose` adds the tokenizer's data.
        """
        request = model_request("POST", "/api/show", model, verbose=verbose or None)
        return self._decode(_decode_document, await self._send(request))

    # Adding and removing models

    async def pull(
        self, model: str, *, insecure: bool = False, on_event: OnProgress | None = None
    ) -> None:
        """Download a model from its registry.

        `insecure` permits a registry without TLS.
        """
        await self._transfer_run("/api/pull", model, insecure).result(on_event)

    async def push(
        self, model: str, *, insecure: bool = False, on_event: OnProgress | None = None
    ) -> None:
        """Upload a model, `namespace/name:tag`, to its registry.

        `insecure` permits a registry without TLS.
        """
        await self._transfer_run("/api/push", model, insecure).result(on_event)

    async def create(
        self, model: str, *, on_event: OnProgress | None = None, **fields: Unpack[CreateFields]
    ) -> None:
        """Create a model from another one (`from_model`) or from uploaded files.

        `files` maps names to digests, see `upload`.
        """
        await self._create_run(model, fields).result(on_event)

    def stream_pull(
        self, model: str, *, insecure: bool = False
    ) -> EventStream[PullProgress, PullProgress]:
        """Download a model and stream the progress. A failure is raised by the iteration.

        Example:
            ```python
            async with admin.stream_pull("gemma3") as stream:
                async for progress in stream:
                    print(progress.status)
            ```
        """
        return self._transfer_run("/api/pull", model, insecure).stream()

    def stream_push(
        self, model: str, *, insecure: bool = False
    ) -> EventStream[PullProgress, PullProgress]:
        """Upload a model and stream the progress. See `push`."""
        return self._transfer_run("/api/push", model, insecure).stream()

    def stream_create(
        self, model: str, **fields: Unpack[CreateFields]
    ) -> EventStream[PullProgress, PullProgress]:
        """Create a model and stream the progress. See `create`."""
        return self._create_run(model, fields).stream()

    async def copy(self, source: str, destination: str) -> None:
        """Copy a model to another name."""
        body = {
            "source": check_name(source, "source"),
            "destination": check_name(destination, "destination"),
        }
        await self._send(json_request("/api/copy", body, {}, Base64Placeholders()))

    async def delete(self, model: str) -> None:
        """Delete a model."""
        await self._send(model_request("DELETE", "/api/delete", model))

    async def has_blob(self, digest: str) -> bool:
        """Return whether the server has a blob."""
        try:
            await self._send(HTTPRequest("HEAD", f"/api/blobs/{check_digest(digest)}"))
        except NotFoundError:
            return False
        return True

    async def upload(self, file: bytes | str | Path) -> str:
        """Send a file as a blob, unless the server has it, and return its digest for `create`."""
        body, digest = await to_thread.run_sync(body_and_digest, file)
        if not await self.has_blob(digest):
            await self._send(
                HTTPRequest("POST", f"/api/blobs/{digest}", body, "application/octet-stream")
            )
        return digest

    # Loading and generating

    async def load(self, model: str, *, keep_alive: str | float | None = None) -> None:
        """Load a model into memory.

        `keep_alive` is how long it stays there: seconds, or a duration such as "10m"; negative is
        forever.
        """
        await self.generate(model, "", keep_alive=keep_alive)

    async def unload(self, model: str) -> None:
        """Unload a model from memory.

        The server does so after its reply, so `ps` may list the model for another moment.
        """
        await self.generate(model, "", keep_alive=0)

    async def generate(
        self,
        model: str,
        prompt: str,
        *,
        on_event: Callable[[str], None] | None = None,
        **fields: Unpack[GenerateFields],
    ) -> Generated:
        """Return the completion of a prompt, without a chat.

        `on_event` is called with each piece of text.
        """
        return await self._generate_run(model, prompt, fields).result(on_event)

    def stream_generate(
        self, model: str, prompt: str, **fields: Unpack[GenerateFields]
    ) -> EventStream[str, Generated]:
        """Complete a prompt and stream the text.

        `stream.result` has the complete text and the statistics after the last piece.
        """
        return self._generate_run(model, prompt, fields).stream()

    # The hosted service

    async def status(self) -> CloudStatus:
        """Return whether the server may use the hosted service."""
        return self._decode(decode_status, await self._query("/api/status"))

    async def account(self) -> Account:
        """Return the account that the server is signed in to.

        Raises AuthenticationError, with `signin_url` in its details, when there is none.
        """
        return self._decode(decode_account, await self._query("/api/me", method="POST"))

    async def web_search(self, query: str, max_results: int | None = None) -> list[SearchResult]:
        """Return web pages about a query.

        `max_results` is 1 to 10; the service's default is 5. At https://ollama.com this needs a
        key, any other server uses its account. Raises AuthenticationError like `account`.
        """
        request = encode_search(query, max_results, self._client.limits, hosted=self._hosted)
        return self._decode(decode_search, await self._send(request))

    async def web_fetch(self, url: str) -> WebPage:
        """Return the text of a web page. The service fetches it, not this program."""
        return self._decode(
            decode_fetch,
            await self._send(encode_fetch(url, self._client.limits, hosted=self._hosted)),
        )

    # Blocking versions

    def version_sync(self) -> str:
        """Return the server's version (blocking)."""
        return portal.run(self.version)

    def tags_sync(self) -> list[dict[str, Any]]:
        """Return the models on the server's disk, as the server lists them (blocking)."""
        return portal.run(self.tags)

    def ps_sync(self) -> list[dict[str, Any]]:
        """Return the models in memory (blocking)."""
        return portal.run(self.ps)

    def show_sync(self, model: str, *, verbose: bool = False) -> dict[str, Any]:
        """Return the details of a model (blocking). See `show`."""
        return portal.run(lambda: self.show(model, verbose=verbose))

    def pull_sync(
        self, model: str, *, insecure: bool = False, on_event: OnProgress | None = None
    ) -> None:
        """Download a model from its registry (blocking)."""
        portal.run(lambda: self.pull(model, insecure=insecure, on_event=on_event))

    def push_sync(
        self, model: str, *, insecure: bool = False, on_event: OnProgress | None = None
    ) -> None:
        """Upload a model, `namespace/name:tag`, to its registry (blocking)."""
        portal.run(lambda: self.push(model, insecure=insecure, on_event=on_event))

    def create_sync(
        self, model: str, *, on_event: OnProgress | None = None, **fields: Unpack[CreateFields]
    ) -> None:
        """Create a model from another one (`from_model`) or from uploaded files (blocking)."""
        portal.run(lambda: self.create(model, on_event=on_event, **fields))

    def stream_pull_sync(
        self, model: str, *, insecure: bool = False
    ) -> SyncEventStream[PullProgress, PullProgress]:
        """Download a model and stream the progress (blocking)."""
        return self._transfer_run("/api/pull", model, insecure).stream_sync()

    def stream_push_sync(
        self, model: str, *, insecure: bool = False
    ) -> SyncEventStream[PullProgress, PullProgress]:
        """Upload a model and stream the progress (blocking)."""
        return self._transfer_run("/api/push", model, insecure).stream_sync()

    def stream_create_sync(
        self, model: str, **fields: Unpack[CreateFields]
    ) -> SyncEventStream[PullProgress, PullProgress]:
        """Create a model and stream the progress (blocking)."""
        return self._create_run(model, fields).stream_sync()

    def copy_sync(self, source: str, destination: str) -> None:
        """Copy a model to another name (blocking)."""
        portal.run(lambda: self.copy(source, destination))

    def delete_sync(self, model: str) -> None:
        """Delete a model (blocking)."""
        portal.run(lambda: self.delete(model))

    def has_blob_sync(self, digest: str) -> bool:
        """Return whether the server has a blob (blocking)."""
        return portal.run(lambda: self.has_blob(digest))

    def upload_sync(self, file: bytes | str | Path) -> str:
        """Send a file as a blob and return its digest (blocking). See `upload`."""
        return portal.run(lambda: self.upload(file))

    def load_sync(self, model: str, *, keep_alive: str | float | None = None) -> None:
        """Load a model into memory (blocking)."""
        portal.run(lambda: self.load(model, keep_alive=keep_alive))

    def unload_sync(self, model: str) -> None:
        """Unload a model from memory (blocking)."""
        portal.run(lambda: self.unload(model))

    def generate_sync(
        self,
        model: str,
        prompt: str,
        *,
        on_event: Callable[[str], None] | None = None,
        **fields: Unpack[GenerateFields],
    ) -> Generated:
        """Return the completion of a prompt, without a chat (blocking)."""
        return portal.run(lambda: self.generate(model, prompt, on_event=on_event, **fields))

    def stream_generate_sync(
        self, model: str, prompt: str, **fields: Unpack[GenerateFields]
    ) -> SyncEventStream[str, Generated]:
        """Complete a prompt and stream the text (blocking)."""
        return self._generate_run(model, prompt, fields).stream_sync()

    def status_sync(self) -> CloudStatus:
        """Return whether the server may use the hosted service (blocking)."""
        return portal.run(self.status)

    def account_sync(self) -> Account:
        """Return the account that the server is signed in to (blocking)."""
        return portal.run(self.account)

    def web_search_sync(self, query: str, max_results: int | None = None) -> list[SearchResult]:
        """Return web pages about a query (blocking)."""
        return portal.run(lambda: self.web_search(query, max_results))

    def web_fetch_sync(self, url: str) -> WebPage:
        """Return the text of a web page (blocking)."""
        return portal.run(lambda: self.web_fetch(url))

    # Implementation

    def _transfer_run(
        self, path: str, model: str, insecure: bool
    ) -> JSONLinesRun[PullProgress, PullProgress]:
        return self._progress_run(
            model_request("POST", path, model, stream=True, insecure=insecure or None), model
        )

    def _create_run(
        self, model: str, fields: CreateFields
    ) -> JSONLinesRun[PullProgress, PullProgress]:
        return self._progress_run(encode_create(model, fields), model)

    def _progress_run(
        self, request: HTTPRequest, model: str
    ) -> JSONLinesRun[PullProgress, PullProgress]:
        # Between two frames a layer may be verified or quantized, which takes minutes.
        return JSONLinesRun(
            self._client,
            request,
            ProgressReader,
            Timeout(first_byte=None, idle=None).with_defaults(self._timeout),
            model,
        )

    def _generate_run(
        self, model: str, prompt: str, fields: GenerateFields
    ) -> JSONLinesRun[str, Generated]:
        limits = self._client.limits
        request = encode_generate(model, prompt, fields, limits)
        prepare = (lambda call: self._ensure_vision(model, call)) if fields.get("images") else None
        return JSONLinesRun(
            self._client,
            request,
            lambda: TextReader(limits),
            self._timeout,
            model,
            needs_slot=True,
            prepare=prepare,
        )

    async def _send(self, request: HTTPRequest) -> bytes:
        try:
            return await self._client.call(self._timeout).read_body(
                request, self._client.limits.max_reply_bytes
            )
        except MajordomoError as error:
            raise self._client.with_context(error) from None

    def _decode(self, decode: Callable[[bytes, Limits], T], body: bytes) -> T:
        try:
            return decode(body, self._client.limits)
        except MajordomoError as error:
            # No frame of the traceback may hold the body, which may quote a key.
            del body
            raise self._client.with_context(error).with_traceback(None) from None

    async def _get(self, path: str) -> dict[str, Any]:
        return self._decode(_decode_document, await self._query(path))


def _decode_document(body: bytes, limits: Limits) -> dict[str, Any]:
    return decode_object(body, limits.max_json_depth)


def _model_list(document: dict[str, Any]) -> list[dict[str, Any]]:
    models = document.get("models")
    # Go encodes an empty list as null.
    if models is None:
        return []
    if not isinstance(models, list):
        raise BadResponseError('the response has no list "models"')
    return [item for item in models if isinstance(item, dict)]
