"""The whole way from a brief to finished files, each stage of it replaceable."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Unpack, cast

from majordomo import imagegen, llm
from majordomo.concurrency import portal
from majordomo.concurrency.event_stream import EventStream, SyncEventStream
from majordomo.concurrency.task_stream import TaskStream
from majordomo.errors import ConfigurationError
from majordomo.imaging.derivative import Derivative
from majordomo.imaging.operations import Recipe, Step, Watermark
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.studio.assistant import PlanCache, PromptAssistant
from majordomo.studio.classifier import MOST_COUNT, Classification
from majordomo.studio.events import StudioDone, StudioEvent
from majordomo.studio.finishing import Finisher, Overlay, finisher
from majordomo.studio.inputs import StudioInput, StudioOverrides, check_input, split_overrides
from majordomo.studio.moderation import Moderator, ModeratorGroup, moderator_group
from majordomo.studio.plan import Plan
from majordomo.studio.result import StudioImage, StudioResult
from majordomo.studio.run import Run
from majordomo.studio.targets import Target
from majordomo.studio.vocabulary import Table, Vocabulary

if TYPE_CHECKING:
    from majordomo.imaging.derivation import Derived


@dataclass(frozen=True, slots=True)
class StageOverrides:
    """Functions in place of the studio's own stages, plain or async; None keeps a stage.

    classify: brief -> Classification. plan: Classification -> Plan. paint: imagegen.Request -> imagegen.Result. finish: Image as painted
    -> ImagePart. derive: Image as finished -> list of Derived. What one raises fails its stage.
    """

    classify: Callable[[str], Classification | Awaitable[Classification]] | None = None
    plan: Callable[[Classification], Plan | Awaitable[Plan]] | None = None
    paint: Callable[[imagegen.Request], imagegen.Result | Awaitable[imagegen.Result]] | None = None
    finish: Callable[[StudioImage], ImagePart | Awaitable[ImagePart]] | None = None
    derive: Callable[[StudioImage], Sequence[Derived] | Awaitable[Sequence[Derived]]] | None = None


class StudioStream(Protocol):
    """A run while it works: iterate it once, inside its `async with`. `result` is None before `Done`."""

    @property
    def result(self) -> StudioResult | None: ...

    def __aiter__(self) -> StudioStream: ...

    async def __anext__(self) -> StudioEvent: ...


class SyncStudioStream(Protocol):
    """The same, blocking."""

    @property
    def result(self) -> StudioResult | None: ...

    def __iter__(self) -> SyncStudioStream: ...

    def __next__(self) -> StudioEvent: ...


@dataclass(frozen=True, slots=True)
class StudioConfig:
    """What a run works with."""

    image_model: imagegen.Model | None
    assistant: PromptAssistant
    finisher: Finisher
    moderator: ModeratorGroup
    stages: StageOverrides = field(default_factory=StageOverrides)
    max_concurrency: int = 2
    max_images: int = MOST_COUNT
    previews: int = 0


class Studio:
    """Briefs in, finished files out. Safe for several runs at once; holds no connection of its own.

    `painter` draws (without one, runs begin with images, or `stages.paint` draws); `chat`, when there is one, writes the prompts (an
    `assistant` of your own goes over it). `recipe` (a Recipe, a step, or a line such as "resize=1024,convert=webp") is applied to every
    image, `derivatives` are made of it. `overlay` writes the text that the brief wants over the image instead of having it drawn;
    `watermark` is a text, an image or a Watermark. `moderator` (one or several) may refuse briefs, prompts and images. `concurrency`
    images are drawn at once in one run, `most` in all. `previews`: how many unfinished images of each a stream shows, none where a
    moderator looks at images. `target`, `timeout`, `cache`, `vocabulary` are the assistant's.

    Raises ConfigurationError or InvalidRequestError, naming the field, for settings that make no sense.
    """

    def __init__(
        self,
        image_model: imagegen.Model | None = None,
        chat_model: llm.Model | None = None,
        *,
        assistant: PromptAssistant | None = None,
        recipe: Recipe | Step | str | None = None,
        derivatives: Sequence[Derivative] = (),
        moderator: Moderator | Sequence[Moderator] | None = None,
        overlay: Overlay = False,
        watermark: Watermark | ImagePart | str | None = None,
        stage_overrides: StageOverrides | None = None,
        target: str | Target = "",
        timeout: float = 60.0,
        cache: PlanCache | None = None,
        vocabulary: Vocabulary | Table | str | os.PathLike[str] | None = None,
        max_concurrency: int = 2,
        max_images: int = MOST_COUNT,
        previews: int = 0,
        limits: Limits | None = None,
    ) -> None:
        for name, value, low in (
            ("max_concurrency", max_concurrency, 1),
            ("max_images", max_images, 1),
            ("previews", previews, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 100:
                raise ConfigurationError(
                    f"{name} is a whole number from {low} to 100", details={"field": name}
                )
        finishing = finisher(recipe, derivatives, overlay, watermark, limits or Limits())
        self._equipment = StudioConfig(
            image_model,
            assistant
            or PromptAssistant(
                chat_model,
                target,
                model=image_model.id if image_model is not None else "",
                provider=image_model.provider if image_model is not None else "",
                timeout=timeout,
                cache=cache,
                vocabulary=vocabulary,
                overlay=overlay is not False,
            ),
            finishing,
            moderator_group(moderator),
            stage_overrides or StageOverrides(),
            max_concurrency,
            min(max_images, MOST_COUNT),
            previews,
        )

    async def run(self, start: StudioInput, **wishes: Unpack[StudioOverrides]) -> StudioResult:
        """Everything that comes of `start`: a brief, or any stage's value to go on from (Classification, Plan, painted images, an Outcome
        to derive from). `wishes` go over what brief and chat model say: n, size, aspect, steps, cfg_scale, sampler, seed (of the first
        image; the next has the next), negative_prompt, images, mask, strength, ..., caller.

        The outcome has at least one image. When none could be made this raises the first one's error, with all of them in
        `details["failures"]`; before that: InvalidRequestError for a brief that cannot be, ContentRefusedError for one that a moderator
        refuses. Every error has `details` stage, asked and help.
        """
        made = self._made(start, wishes)
        return await made.execute(None)

    def stream(
        self, start: StudioInput, **wishes: Unpack[StudioOverrides]
    ) -> AbstractAsyncContextManager[StudioStream]:
        """The same, telling what happens. Leaving the `async with` early cancels everything."""
        made = self._made(start, wishes)
        return cast(
            "AbstractAsyncContextManager[StudioStream]", EventStream(lambda: StudioRunSource(made))
        )

    def run_sync(self, start: StudioInput, **wishes: Unpack[StudioOverrides]) -> StudioResult:
        made = self._made(start, wishes)
        return portal.run(lambda: made.execute(None))

    def stream_sync(
        self, start: StudioInput, **wishes: Unpack[StudioOverrides]
    ) -> AbstractContextManager[SyncStudioStream]:
        made = self._made(start, wishes)
        return cast(
            "AbstractContextManager[SyncStudioStream]",
            SyncEventStream(lambda: StudioRunSource(made)),
        )

    def _made(self, start: StudioInput, wishes: StudioOverrides) -> Run:
        settings, overrides = split_overrides(wishes)
        return Run(self._equipment, check_input(start), settings, overrides)


class StudioRunSource:
    """A run as a source of events."""

    def __init__(self, run: Run) -> None:
        self._telling: TaskStream[StudioEvent, StudioResult] = TaskStream(run.execute)
        self._ended = False
        self.result: StudioResult | None = None

    async def next_events(self) -> Sequence[StudioEvent]:
        if self._ended:
            return ()
        if events := await self._telling.next_events():
            return events
        self._ended = True
        self.result = self._telling.result
        return [StudioDone(self.result)] if self.result is not None else ()

    async def aclose(self) -> None:
        await self._telling.aclose()
