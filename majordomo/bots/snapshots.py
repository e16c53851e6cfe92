"""The state of a stream as a value to show, and texts for what happens before the answer begins."""

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
    """The state of a chat answer."""

    text: str = ""
    """The text of the model so far."""
    status: str = ""
    """What the model does before or between its text; "" while text arrives."""
    images: tuple[ImagePart, ...] = ()
    """The images that the model has generated so far."""
    elapsed: float = 0.0
    """Seconds since the stream was entered."""
    reply: llm.Reply | None = None
    """The complete reply, only in the last snapshot of a stream that ended with `Done`."""
    finished: bool = False
    """Whether this is the last snapshot."""

    @property
    def display_text(self) -> str:
        """What to show: the text; while there is none, the status."""
        return self.text or self.status


@dataclass(frozen=True, slots=True)
class ImageSnapshot:
    """The state of an image generation."""

    status: str = ""
    """A line of progress."""
    step: int = 0
    """The current step; 0 until the backend reports steps."""
    total: int = 0
    """The total number of steps; 0 until the backend reports steps."""
    preview: ImagePart | None = None
    """An unfinished image that no earlier snapshot had; None when there is no new one."""
    elapsed: float = 0.0
    """Seconds since the stream was entered."""
    result: imagegen.Result | None = None
    """The result. Only in the last snapshot."""
    finished: bool = False
    """Whether this is the last snapshot."""


def chat_status(event: llm.ChatEvent) -> str | None:
    """Return an English status for a chat event; None for an event that changes no status.

    The default `formatter` of `throttle`.

    Args:
        event: An event of the stream.
    """
    match event:
        case Queued() | Loading():
            return _waiting_status(event)
        case llm.ThinkingDelta():
            return "thinking"
        case llm.ToolCallStarted():
            return f"using {event.name}"
    return None


def image_status(event: imagegen.ImageEvent) -> str | None:
    """Return an English status for an image event; None for an event that changes no status.

    The default `formatter` of `throttle_image`.

    Args:
        event: An event of the stream.
    """
    match event:
        case Queued() | Loading():
            return _waiting_status(event)
        case imagegen.Step():
            return f"step {event.step} of {event.total}"
    return None


def _waiting_status(event: Queued | Loading) -> str:
    if isinstance(event, Loading):
        return "loading the model"
    return "waiting" if event.position is None else f"waiting, number {event.position}"


@dataclass(slots=True)
class ChatState:
    """Collects the events of a chat stream for snapshots."""

    formatter: ChatStatus
    started_at: float
    parts: list[str] = field(default_factory=list)
    images: list[ImagePart] = field(default_factory=list)
    status: str = ""
    reply: llm.Reply | None = None
    # A tool has returned, so the next text of the model is a new paragraph.
    _starts_paragraph: bool = False

    def update(self, event: llm.ChatEvent | str, now: float) -> bool:
        """Apply an event, and return whether a reader would see a difference.

        A str is the whole text so far.
        """
        if isinstance(event, str):
            changed = self.parts != [event] or bool(self.status)
            self.parts, self.status = [event], ""
            return changed
        if isinstance(event, llm.TextDelta):
            if self._starts_paragraph and self.parts and event.text.strip():
                self.parts.append("\n\n")
            self._starts_paragraph = self._starts_paragraph and not event.text.strip()
            self.parts.append(event.text)
            self.status = ""
            return True
        if isinstance(event, llm.Done):
            self.reply, self.status = event.reply, ""
            self.parts = self.parts or [event.reply.text]
            # The end of the stream follows, and is shown then.
            return False
        self._starts_paragraph = self._starts_paragraph or isinstance(event, llm.ToolReturned)
        if isinstance(event, llm.ImageReady):
            self.images.append(event.image)
            return True
        return self._update_status(self.formatter(event))

    def _update_status(self, status: str | None) -> bool:
        changed = status is not None and status != self.status
        self.status = status if status is not None else self.status
        return changed

    def snapshot(self, now: float, *, finished: bool) -> Snapshot:
        """Return the state as a value."""
        text = "".join(self.parts)
        self.parts = [text] if text else []
        return Snapshot(
            text, self.status, tuple(self.images), now - self.started_at, self.reply, finished
        )


@dataclass(slots=True)
class ImageState:
    """Collects the events of an image stream for snapshots."""

    formatter: ImageStatus
    started_at: float
    preview_interval: float
    status: str = ""
    step: int = 0
    total: int = 0
    result: imagegen.Result | None = None
    _preview: ImagePart | None = None
    _next_preview: float = 0.0

    def update(self, event: imagegen.ImageEvent, now: float) -> bool:
        """Apply an event, and return whether a reader would see a difference.

        A preview that comes too early is kept until a later one is due.
        """
        if not isinstance(event, imagegen.ImageEvent):
            raise InvalidRequestError(
                f"stream must yield image events; got {type(event).__name__}", field="stream"
            )
        if isinstance(event, imagegen.Done):
            self.result, self._preview = event.result, None
            # The end of the stream follows, and is shown then.
            return False
        if isinstance(event, imagegen.Preview):
            self._preview = event.image
            return now >= self._next_preview
        step_changed = isinstance(event, imagegen.Step) and (event.step, event.total) != (
            self.step,
            self.total,
        )
        if isinstance(event, imagegen.Step):
            self.step, self.total = event.step, event.total
        status = self.formatter(event)
        changed = step_changed or (status is not None and status != self.status)
        self.status = status if status is not None else self.status
        return changed

    def snapshot(self, now: float, *, finished: bool) -> ImageSnapshot:
        """Return the state as a value, with a preview if a new one is due."""
        preview = None
        if self._preview is not None and now >= self._next_preview:
            preview, self._preview = self._preview, None
            self._next_preview = now + self.preview_interval
        return ImageSnapshot(
            self.status,
            self.step,
            self.total,
            preview,
            now - self.started_at,
            self.result,
            finished,
        )
