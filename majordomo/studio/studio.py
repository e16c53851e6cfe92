"""The pipeline from a brief to finished files. Every stage can be replaced."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Unpack

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
from majordomo.studio.classifier import MAX_IMAGES, Classification
from majordomo.studio.events import StudioDone, StudioEvent
from majordomo.studio.finishing import Finisher, Overlay, create_finisher
from majordomo.studio.inputs import StudioInput, StudioOverrides, parse_input, split_overrides
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
    """Functions, plain or async, that replace stages of a `Studio`.

    None keeps the studio's own stage. An exception raised by a function fails its stage.
    """

    classify: Callable[[str], Classification | Awaitable[Classification]] | None = None
    """Reads the brief."""
    plan: Callable[[Classification], Plan | Awaitable[Plan]] | None = None
    """Chooses prompts and settings."""
    generate: Callable[[imagegen.Request], imagegen.Result | Awaitable[imagegen.Result]] | None = (
        None
    )
    """Generates one image."""
    finish: Callable[[StudioImage], ImagePart | Awaitable[ImagePart]] | None = None
    """Applies recipe, text and watermark; receives the image as the image model returned it."""
    derive: Callable[[StudioImage], Sequence[Derived] | Awaitable[Sequence[Derived]]] | None = None
    """Derives more files; receives the finished image."""


StudioStream = EventStream[StudioEvent, StudioResult]
"""The events of a run in progress, and its result after `StudioDone`."""
SyncStudioStream = SyncEventStream[StudioEvent, StudioResult]
"""The blocking version of `StudioStream`."""


@dataclass(frozen=True, slots=True)
class StudioConfig:
    """The validated configuration of a `Studio`, shared by its runs."""

    image_model: imagegen.Model | None
    assistant: PromptAssistant
    finisher: Finisher
    moderator: ModeratorGroup
    stages: StageOverrides = field(default_factory=StageOverrides)
    max_concurrency: int = 2
    max_images: int = MAX_IMAGES
    previews: int = 0


class Studio:
    """A pipeline from a brief to finished image files.

    Several runs may use one studio at the same time. It owns no connections of its own.

    Args:
        image_model: Generates the images. Without one, a run has to start from images, or
            `stage_overrides.generate` has to be set.
        chat_model: Writes the prompts. Without one, rules write them.
        assistant: A prompt assistant of your own; replaces `chat_model`, `target`, `timeout`,
            `cache` and `vocabulary`.
        recipe: Applied to every image: a Recipe, a step, or a text such as
            `"resize=1024,convert=webp"`.
        derivatives: Files to derive from every image.
        moderator: One or several moderators; each may refuse briefs, prompts and images.
        overlay: Write the text that the brief asks for over the image instead of leaving it to the
            image model: True, a Text step, or a function from the text to a step.
        watermark: A text, an image or a Watermark step.
        stage_overrides: Functions that replace stages.
        target: Family of the image model, see `PromptAssistant`.
        timeout: Time limit in seconds for the chat model's reply, see `PromptAssistant`.
        cache: Cache of plans, see `PromptAssistant`.
        vocabulary: Additional vocabulary of the classifier, see `PromptAssistant`.
        max_concurrency: Images generated at the same time in one run, 1 to 100.
        max_images: Images per run, 1 to 100; a run never makes more than 16.
        previews: Previews per image in a stream, 0 to 100. None are requested when a moderator
            checks images.
        limits: Limits for decoding and processing images.

    Raises:
        ConfigurationError: A setting is invalid; `details["field"]` names it.
        InvalidRequestError: A setting is invalid; `field` names it.
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
        max_images: int = MAX_IMAGES,
        previews: int = 0,
        limits: Limits | None = None,
    ) -> None:
        for name, value, minimum in (
            ("max_concurrency", max_concurrency, 1),
            ("max_images", max_images, 1),
            ("previews", previews, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= 100:
                raise ConfigurationError(
                    f"{name} must be an integer from {minimum} to 100; got {value!r}",
                    details={"field": name},
                )
        finisher = create_finisher(recipe, derivatives, overlay, watermark, limits or Limits())
        self._config = StudioConfig(
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
            finisher,
            moderator_group(moderator),
            stage_overrides or StageOverrides(),
            max_concurrency,
            min(max_images, MAX_IMAGES),
            previews,
        )

    async def run(
        self, studio_input: StudioInput, **overrides: Unpack[StudioOverrides]
    ) -> StudioResult:
        """Run all remaining stages and return the result.

        Args:
            studio_input: A brief, or a value of any stage to continue from: a Classification, a
                Plan, images, or a StudioResult whose images are finished and derived from again.
            **overrides: Settings that take precedence over the brief and the chat model: n, size,
                aspect, steps, cfg_scale, sampler, seed (of the first image; each following image
                uses the next seed), negative_prompt, images, mask, strength, ..., user_id.

        Returns:
            A result with at least one image.

        Raises:
            InvalidRequestError: The input or an override is invalid.
            ContentRefusedError: A moderator refused the brief.
            MajordomoError: No image could be made. This is the error of the first image; all of
                them are in `details["failures"]`.

        Every error has `stage` and `help` in its `details`, and `input` where it is known.
        """
        run = self._create_run(studio_input, overrides)
        return await run.execute(None)

    def stream(
        self,
        studio_input: StudioInput,
        **overrides: Unpack[StudioOverrides],
    ) -> StudioStream:
        """Run like `run` and stream the events.

        Leaving the `async with` early cancels everything. Arguments and errors are those of `run`.
        """
        run = self._create_run(studio_input, overrides)
        return EventStream(lambda: _source(run))

    def run_sync(
        self, studio_input: StudioInput, **overrides: Unpack[StudioOverrides]
    ) -> StudioResult:
        """Blocking version of `run`."""
        run = self._create_run(studio_input, overrides)
        return portal.run(lambda: run.execute(None))

    def stream_sync(
        self,
        studio_input: StudioInput,
        **overrides: Unpack[StudioOverrides],
    ) -> SyncStudioStream:
        """Blocking version of `stream`."""
        run = self._create_run(studio_input, overrides)
        return SyncEventStream(lambda: _source(run))

    def _create_run(self, studio_input: StudioInput, overrides: StudioOverrides) -> Run:
        settings, request_overrides = split_overrides(overrides)
        return Run(self._config, parse_input(studio_input), settings, request_overrides)


def _source(run: Run) -> TaskStream[StudioEvent, StudioResult]:
    """Return one run as the source of a stream."""
    return TaskStream(run.execute, last_event=StudioDone)
