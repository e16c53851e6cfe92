"""What a chat backend is shown: pictures that it cannot read are sent as pictures that it can."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

from majordomo import llm
from majordomo.concurrency.fork_safety import forget_after_fork
from majordomo.errors import CallWarning
from majordomo.media.image_part import ImagePart, Readable
from majordomo.settings import Limits

KEPT = 16  # converted pictures that are remembered, so that a conversation's old ones are not converted at every turn
KEPT_BYTES = 64 * 1024 * 1024  # of them and of what they were made from


class Sight:
    """The pictures of one model's requests, as its backend reads them."""

    def __init__(self, reads: Readable, limits: Limits) -> None:
        self._reads = reads
        self._limits = limits
        self.forget()
        forget_after_fork(self)

    def forget(self) -> None:
        self._made: OrderedDict[bytes, ImagePart] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()  # a model may be used from several threads

    def takes(self, request: llm.Request) -> bool:
        """Whether every picture can be sent as it is."""
        return all(self._reads.takes(picture) for picture in pictures(request))

    async def shown(self, request: llm.Request) -> tuple[llm.Request, list[CallWarning]]:
        """The request as it can be sent, and a warning (`PICTURE_CONVERTED`) for each kind of change.

        Raises InvalidRequestError (field `messages`) for a picture that cannot be decoded.
        """
        made: dict[bytes, ImagePart] = {}
        words: dict[str, None] = {}
        for picture in pictures(request):
            if self._reads.takes(picture):
                continue
            new = made[picture.data] = await self._converted(picture)
            words[f"this backend does not read a {_said(picture)}: it was sent as {_said(new)}"] = None
        if not made:
            return request, []
        return _with(request, made), [CallWarning("PICTURE_CONVERTED", text, "messages") for text in words]

    async def _converted(self, picture: ImagePart) -> ImagePart:
        with self._lock:
            if picture.data in self._made:
                self._made.move_to_end(picture.data)
                return self._made[picture.data]
        from anyio import to_thread

        from majordomo.imaging.prepare import readable  # Pillow, where no picture needs it, is not loaded

        new = await to_thread.run_sync(readable, picture, self._reads, self._limits, abandon_on_cancel=True)
        self._keep(picture.data, new)
        return new

    def _keep(self, data: bytes, new: ImagePart) -> None:
        with self._lock:
            if data in self._made:  # converted twice at once
                return
            self._made[data] = new
            self._size += len(data) + len(new.data)
            while len(self._made) > KEPT or self._size > KEPT_BYTES:
                old, made = self._made.popitem(last=False)
                self._size -= len(old) + len(made.data)


def _said(picture: ImagePart) -> str:
    return f"{picture.mime} of {picture.width}x{picture.height} and {len(picture.data):,} bytes"


def pictures(request: llm.Request) -> Iterator[ImagePart]:
    """Every picture of a conversation, those of tools included."""
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, ImagePart):
                yield part
            elif isinstance(part, llm.ToolResultPart):
                yield from (piece for piece in part.parts if isinstance(piece, ImagePart))


def _with(request: llm.Request, made: dict[bytes, ImagePart]) -> llm.Request:
    def changed(part: llm.Part) -> llm.Part:
        if isinstance(part, ImagePart):
            return made.get(part.data, part)
        if isinstance(part, llm.ToolResultPart):
            return replace(part, parts=tuple(made.get(p.data, p) if isinstance(p, ImagePart) else p for p in part.parts))
        return part

    turns = (llm.Message(turn.role, tuple(changed(part) for part in turn.parts)) for turn in request.messages)
    return replace(request, messages=tuple(turns))
