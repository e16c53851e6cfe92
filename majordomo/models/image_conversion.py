"""Convert the images of a chat request that a backend cannot read to images that it can.

Converted images are cached per model, because a conversation sends its old images every time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

from majordomo import llm
from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import CallWarning
from majordomo.media.image_limits import ImageSupport
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits

MAX_CACHED_IMAGES = 16
# Counts the converted images and their originals.
MAX_CACHE_BYTES = 64 * 1024 * 1024


class ImageConverter:
    """Converts the images in the requests of one model, with a cache. Thread-safe."""

    def __init__(self, support: ImageSupport, limits: Limits) -> None:
        self._support = support
        self._limits = limits
        self._reset()
        self._lock = Lock(self._reset)

    def _reset(self) -> None:
        self._cache: OrderedDict[bytes, ImagePart] = OrderedDict()
        self._size = 0

    def accepts(self, request: llm.Request) -> bool:
        """Return whether every image can be sent unchanged."""
        return all(self._support.accepts(image) for image in images_in(request))

    async def convert(self, request: llm.Request) -> tuple[llm.Request, list[CallWarning]]:
        """Return the request as it can be sent, and its warnings.

        There is one warning (`IMAGE_CONVERTED`) per kind of change. Raises InvalidRequestError
        (field `messages`) for an image that cannot be decoded.
        """
        converted: dict[bytes, ImagePart] = {}
        changes: dict[str, None] = {}
        for image in images_in(request):
            if self._support.accepts(image):
                continue
            new = converted[image.data] = await self._convert_cached(image)
            change = f"{_describe(image)} was sent as {_describe(new)}"
            changes[f"the backend cannot read the image: {change}"] = None
        if not converted:
            return request, []
        return _replace_images(request, converted), [
            CallWarning("IMAGE_CONVERTED", text, "messages") for text in changes
        ]

    async def _convert_cached(self, image: ImagePart) -> ImagePart:
        with self._lock:
            if image.data in self._cache:
                self._cache.move_to_end(image.data)
                return self._cache[image.data]
        # Imported here so that Pillow is only loaded when an image has to be converted.
        from anyio import to_thread

        from majordomo.imaging.prepare import readable

        converted = await to_thread.run_sync(
            readable, image, self._support, self._limits, abandon_on_cancel=True
        )
        self._store(image.data, converted)
        return converted

    def _store(self, data: bytes, converted: ImagePart) -> None:
        with self._lock:
            # Two calls may have converted the same image at the same time.
            if data in self._cache:
                return
            self._cache[data] = converted
            self._size += len(data) + len(converted.data)
            while len(self._cache) > MAX_CACHED_IMAGES or self._size > MAX_CACHE_BYTES:
                old_data, old_image = self._cache.popitem(last=False)
                self._size -= len(old_data) + len(old_image.data)


def _describe(image: ImagePart) -> str:
    """Return the type and size of an image, for a warning."""
    return f"{image.mime} of {image.width}x{image.height} and {len(image.data):,} bytes"


def images_in(request: llm.Request) -> Iterator[ImagePart]:
    """Yield every image of a conversation, including images in tool results."""
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, ImagePart):
                yield part
            elif isinstance(part, llm.ToolResultPart):
                yield from (inner for inner in part.parts if isinstance(inner, ImagePart))


def _replace_images(request: llm.Request, converted: dict[bytes, ImagePart]) -> llm.Request:
    def replace_image(part: llm.Part) -> llm.Part:
        if isinstance(part, ImagePart):
            return converted.get(part.data, part)
        if isinstance(part, llm.ToolResultPart):
            return replace(
                part,
                parts=tuple(
                    converted.get(p.data, p) if isinstance(p, ImagePart) else p for p in part.parts
                ),
            )
        return part

    messages = (
        llm.Message(message.role, tuple(replace_image(part) for part in message.parts))
        for message in request.messages
    )
    return replace(request, messages=tuple(messages))
