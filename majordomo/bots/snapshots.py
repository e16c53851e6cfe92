"""What a stream has said so far, as a value to show; and the words for what happens before there is anything to show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from majordomo import imagegen, llm
from majordomo.errors import InvalidRequestError
from majordomo.llm import ImagePart, Loading, Queued

ChatStatus = Callable[[llm.ChatEvent], str | None]
ImageStatus = Callable[[imagegen.ImageEvent], str | None]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An answer so far. `text` is the model's own, `status` what it is doing in the meantime ("" when it speaks), `images` what it has
    drawn, `elapsed` the seconds since the stream was entered. `reply` is there in the last one only, where the stream ended with `Done`.
    """

    text: str = ""
    status: str = ""
    images: tuple[ImagePart, ...] = ()
    elapsed: float = 0.0
    reply: llm.Reply | None = None
    finished: bool = False

    @property
    def shown(self) -> str:
        """The text; while there is none, the status."""
        return self.text or self.status


@dataclass(frozen=True, slots=True)
class ImageSnapshot:
    """An image so far. `status` is a line of progress, `preview` an unfinished image that no snapshot had before. `step` and `total`
    are 0 until the backend counts. `result` is there in the last one only.
    """

    status: str = ""
    step: int = 0
    total: int = 0
    preview: ImagePart | None = None
    elapsed: float = 0.0
    result: imagegen.Result | None = None
    finished: bool = False


def chat_status(event: llm.ChatEvent) -> str | None:
    """English words for what a chat stream tells before or between its text; None for what is no news to a reader."""
    match event:
        case Queued() | Loading():
            return _waiting(event)
        case llm.ThinkingDelta():
            return "thinking"
        case llm.ToolCallStarted():
            return f"using {event.name}"
    return None


def image_status(event: imagegen.ImageEvent) -> str | None:
    """English words for what an image stream tells; None for what is no news to a reader."""
    match event:
        case Queued() | Loading():
            return _waiting(event)
        case imagegen.Step():
            return f"step {event.step} of {event.total}"
    return None


def _waiting(event: Queued | Loading) -> str:
    if isinstance(event, Loading):
        return "loading the model"
    return "waiting" if event.position is None else f"waiting, number {event.position}"


@dataclass(slots=True)
class ChatState:
    words: ChatStatus
    began: float
    parts: list[str] = field(default_factory=list)
    images: list[ImagePart] = field(default_factory=list)
    status: str = ""
    reply: llm.Reply | None = None
    _turned: bool = False  # a tool has answered: what the model says now is a new paragraph

    def update(self, event: llm.ChatEvent | str, now: float) -> bool:
        """Whether a reader would see a difference. A str is the whole text so far."""
        if isinstance(event, str):
            changed = self.parts != [event] or bool(self.status)
            self.parts, self.status = [event], ""
            return changed
        if isinstance(event, llm.TextDelta):
            if self._turned and self.parts and event.text.strip():
                self.parts.append("\n\n")
            self._turned = self._turned and not event.text.strip()
            self.parts.append(event.text)
            self.status = ""
            return True
        if isinstance(event, llm.Done):
            self.reply, self.status = event.reply, ""
            self.parts = self.parts or [event.reply.text]
            return False  # the end of the stream follows, and is shown
        self._turned = self._turned or isinstance(event, llm.ToolReturned)
        if isinstance(event, llm.ImageReady):
            self.images.append(event.image)
            return True
        return self._says(self.words(event))

    def _says(self, status: str | None) -> bool:
        changed = status is not None and status != self.status
        self.status = status if status is not None else self.status
        return changed

    def snapshot(self, now: float, *, finished: bool) -> Snapshot:
        text = "".join(self.parts)
        self.parts = [text] if text else []
        return Snapshot(
            text, self.status, tuple(self.images), now - self.began, self.reply, finished
        )


@dataclass(slots=True)
class ImageState:
    words: ImageStatus
    began: float
    preview_interval: float
    status: str = ""
    step: int = 0
    total: int = 0
    result: imagegen.Result | None = None
    _preview: ImagePart | None = None
    _next_preview: float = 0.0

    def update(self, event: imagegen.ImageEvent, now: float) -> bool:
        """Whether a reader would see a difference; a preview that comes too early waits for the next one."""
        if not isinstance(
            event, imagegen.Done | imagegen.Step | imagegen.Preview | Queued | Loading
        ):
            raise InvalidRequestError(
                f"an image stream gives events, not {type(event).__name__}", field="stream"
            )
        if isinstance(event, imagegen.Done):
            self.result, self._preview = event.result, None
            return False  # the end of the stream follows, and is shown
        if isinstance(event, imagegen.Preview):
            self._preview = event.image
            return now >= self._next_preview
        counted = isinstance(event, imagegen.Step) and (event.step, event.total) != (
            self.step,
            self.total,
        )
        if isinstance(event, imagegen.Step):
            self.step, self.total = event.step, event.total
        status = self.words(event)
        changed = counted or (status is not None and status != self.status)
        self.status = status if status is not None else self.status
        return changed

    def snapshot(self, now: float, *, finished: bool) -> ImageSnapshot:
        preview = None
        if self._preview is not None and now >= self._next_preview:
            preview, self._preview = self._preview, None
            self._next_preview = now + self.preview_interval
        return ImageSnapshot(
            self.status, self.step, self.total, preview, now - self.began, self.result, finished
        )
