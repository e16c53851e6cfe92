"""What a chat backend is shown: images that it cannot read are sent as images that it can."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

from majordomo import llm
from majordomo.concurrency.fork_safety import register_fork_aware
from majordomo.errors import CallWarning
from majordomo.media.image_limits import ImageSupport
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits

CACHE_SIZE = 16  # converted images that are remembered, so that a conversation's old ones are not converted at every turn
CACHE_BYTES = 64 * 1024 * 1024  # of them and of what they were made from


class ImageConverter:
    """The images of one model's requests, as its backend reads them."""

    def __init__(self, reads: ImageSupport, limits: Limits) -> None:
        self._reads = reads
        self._limits = limits
        self.reset_after_fork()
        register_fork_aware(self)

    def reset_after_fork(self) -> None:
        self._made: OrderedDict[bytes, ImagePart] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()  # a model may be used from several threads

    def accepts(self, request: llm.Request) -> bool:
        """Whether every image can be sent as it is."""
        return all(self._reads.accepts(image) for image in images_in(request))

    async def convert(self, request: llm.Request) -> tuple[llm.Request, list[CallWarning]]:
        """The request as it can be sent, and a warning (`IMAGE_CONVERTED`) for each kind of change.

        Raises InvalidRequestError (field `messages`) for an image that cannot be decoded.
        """
        made: dict[bytes, ImagePart] = {}
        words: dict[str, None] = {}
        for image in images_in(request):
            if self._reads.accepts(image):
                continue
            new = made[image.data] = await self._converted(image)
            words[f"this backend does not read a {_said(image)}: it was sent as {_said(new)}"] = (
                None
            )
        if not made:
            return request, []
        return _with(request, made), [
            CallWarning("IMAGE_CONVERTED", text, "messages") for text in words
        ]

    async def _converted(self, image: ImagePart) -> ImagePart:
        with self._lock:
            if image.data in self._made:
                self._made.move_to_end(image.data)
                return self._made[image.data]
        from anyio import to_thread

        from majordomo.imaging.prepare import (
            readable,  # Pillow, where no image needs it, is not loaded
        )

        new = await to_thread.run_sync(
            readable, image, self._reads, self._limits, abandon_on_cancel=True
        )
        self._keep(image.data, new)
        return new

    def _keep(self, data: bytes, new: ImagePart) -> None:
        with self._lock:
            if data in self._made:  # converted twice at once
                return
            self._made[data] = new
            self._size += len(data) + len(new.data)
            while len(self._made) > CACHE_SIZE or self._size > CACHE_BYTES:
                old, made = self._made.popitem(last=False)
                self._size -= len(old) + len(made.data)


def _said(image: ImagePart) -> str:
    return f"{image.mime} of {image.width}x{image.height} and {len(image.data):,} bytes"


def images_in(request: llm.Request) -> Iterator[ImagePart]:
    """Every image of a conversation, those of tools included."""
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
            return replace(
                part,
                parts=tuple(
                    made.get(p.data, p) if isinstance(p, ImagePart) else p for p in part.parts
                ),
            )
        return part

    turns = (
        llm.Message(turn.role, tuple(changed(part) for part in turn.parts))
        for turn in request.messages
    )
    return replace(request, messages=tuple(turns))
