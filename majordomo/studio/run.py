"""One run of the pipeline: stages in order, images concurrently.

A failure of one image is recorded in the result and does not affect the other images. At most
`StudioConfig.max_concurrency` images are moderated, generated, finished and derived from at the
same time; a task per image waits on one semaphore for its turn. Nothing is emitted or stored of an
image that a moderator has not allowed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from majordomo import imagegen
from majordomo.backend_status import Queued
from majordomo.errors import (
    BackendError,
    CallWarning,
    ConfigurationError,
    ContentRefusedError,
    InvalidRequestError,
    MajordomoError,
)
from majordomo.media.image_part import ImagePart
from majordomo.studio.classifier import Classification, classify
from majordomo.studio.errors import Stage, with_stage
from majordomo.studio.events import (
    Classified,
    DerivativeReady,
    ImageFailed,
    ImageFinished,
    ImageProgress,
    PlanReady,
    StudioEvent,
)
from majordomo.studio.image_requests import plan_with_settings, requests_for, studio_image
from majordomo.studio.moderation import Verdict
from majordomo.studio.plan import NamedPrompt, Plan
from majordomo.studio.result import StudioImage, StudioResult
from majordomo.validation import as_tuple

if TYPE_CHECKING:
    from majordomo.imaging.derivation import Derived
    from majordomo.studio.inputs import Images
    from majordomo.studio.studio import StudioConfig

T = TypeVar("T")
Emit = Callable[[StudioEvent], None]


class Run:
    """A validated input with its settings, ready to be executed."""

    def __init__(
        self,
        config: StudioConfig,
        studio_input: str | Classification | Plan | Images,
        settings: dict[str, Any],
        overrides: dict[str, Any],
    ) -> None:
        self._config = config
        self._input = studio_input
        self._settings = settings
        self._overrides = overrides

    async def execute(self, emit: Emit | None) -> StudioResult:
        """Run all stages. `emit` receives the events; None generates without streaming."""
        return await _Execution(self._config, self._settings, self._overrides, emit).run(
            self._input
        )


class _Execution:
    """The state of one execution: images and errors by their index in the run."""

    def __init__(
        self,
        config: StudioConfig,
        settings: dict[str, Any],
        overrides: dict[str, Any],
        emit: Emit | None,
    ) -> None:
        self._config = config
        self._stages = config.stages
        self._settings = settings
        self._overrides = overrides
        self._has_listener = emit is not None
        self._emit: Emit = emit or (lambda _: None)
        self._slots = anyio.Semaphore(config.max_concurrency)
        self._images: dict[int, StudioImage] = {}
        self._errors: dict[int, list[MajordomoError]] = {}

    async def run(self, studio_input: str | Classification | Plan | Images) -> StudioResult:
        if isinstance(studio_input, tuple):
            await self._run_concurrently(
                [
                    partial(self._process_image, index, image)
                    for index, image in enumerate(studio_input)
                ]
            )
            return self._create_result(None)
        plan = await self._create_plan(studio_input)
        hide_previews, text = self._config.moderator.checks_images, plan.classification.text
        previews = self._config.previews if self._has_listener else 0
        requests = requests_for(
            plan, {"previews": previews, **self._overrides}, hide_previews=hide_previews
        )
        await self._run_concurrently(
            [
                partial(self._process_prompt, index, prompt, request, text)
                for index, (prompt, request) in enumerate(requests)
            ]
        )
        return self._create_result(plan)

    def _create_result(self, plan: Plan | None) -> StudioResult:
        """Return the result, or raise the first error when there is no image."""
        errors = [error for index in sorted(self._errors) for error in self._errors[index]]
        if not self._images:
            first = errors[0]
            first.details["failures"] = (
                [error.to_dict() for error in errors] if len(errors) > 1 else []
            )
            raise first
        return StudioResult(
            tuple(self._images[index] for index in sorted(self._images)), plan, tuple(errors)
        )

    async def _run_concurrently(
        self, tasks: Sequence[Callable[[], Coroutine[Any, Any, None]]]
    ) -> None:
        """Run the tasks and wait for all; `_slots` limits how many work at the same time.

        Tasks record their own errors, so the task group never raises an exception group.
        """
        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(task)

    async def _run_stage(
        self,
        stage: Stage,
        stage_input: str,
        default: Callable[..., Any],
        override: Callable[..., Any] | None,
        *arguments: Any,
    ) -> Any:
        """Run a stage, with its override when there is one; add the stage to every error."""
        try:
            value = default() if override is None else override(*arguments)
            return await value if isawaitable(value) else value
        except Exception as error:
            described = with_stage(error, stage, stage_input)
            raise described from described.__cause__

    async def _create_plan(self, studio_input: str | Classification | Plan) -> Plan:
        if isinstance(studio_input, str):
            studio_input = await self._classify(studio_input)
        classification = (
            studio_input.classification if isinstance(studio_input, Plan) else studio_input
        )
        await self._moderate_text(classification.brief)
        plan = (
            studio_input
            if isinstance(studio_input, Plan)
            else await self._write_plan(classification)
        )
        plan = plan_with_settings(plan, self._settings, self._config.max_images)
        self._emit(PlanReady(plan))
        return plan

    async def _classify(self, brief: str) -> Classification:
        vocabulary = self._config.assistant.vocabulary
        value = await self._run_stage(
            "classify", brief, lambda: classify(brief, vocabulary), self._stages.classify, brief
        )
        classification = _check_type(value, Classification, "classify")
        self._emit(Classified(classification))
        return classification

    async def _write_plan(self, classification: Classification) -> Plan:
        settings: dict[str, Any] = {
            **self._settings,
            "user_id": self._overrides.get("user_id") or "",
        }
        value = await self._run_stage(
            "plan",
            classification.brief,
            lambda: self._config.assistant.plan(classification, **settings),
            self._stages.plan,
            classification,
        )
        return _check_type(value, Plan, "plan")

    async def _process_prompt(
        self, index: int, prompt: NamedPrompt, request: imagegen.Request, text: str
    ) -> None:
        # Stays None until the moderators have allowed the image.
        allowed: StudioImage | None = None
        try:
            if self._slots.value == 0:
                self._emit(ImageProgress(prompt.name, Queued()))
            async with self._slots:
                # The negative prompt is not moderated: it names what must not be in the image.
                await self._moderate_text(prompt.prompt)
                value = await self._run_stage(
                    "generate",
                    prompt.prompt,
                    lambda: self._generate(prompt.name, request),
                    self._stages.generate,
                    request,
                )
                image = studio_image(
                    prompt, request, _check_type(value, imagegen.Result, "generate"), text
                )
                await self._moderate_image(image)
                allowed = image
                await self._finish_and_derive(index, image)
        except Exception as error:
            self._add_failure(
                index, prompt.name, with_stage(error, "generate", prompt.prompt), allowed
            )

    async def _process_image(self, index: int, image: StudioImage) -> None:
        allowed: StudioImage | None = None
        try:
            async with self._slots:
                await self._moderate_image(image)
                allowed = image
                await self._finish_and_derive(index, image)
        except Exception as error:
            self._add_failure(index, image.name, with_stage(error, "finish", image.name), allowed)

    def _add_failure(
        self, index: int, name: str, error: MajordomoError, allowed: StudioImage | None
    ) -> None:
        error.details.setdefault("image", name)
        self._errors.setdefault(index, []).append(error)
        self._emit(ImageFailed(name, error, allowed))

    async def _generate(self, name: str, request: imagegen.Request) -> imagegen.Result:
        image_model = self._config.image_model
        if image_model is None:
            raise ConfigurationError(
                "the studio has no image model; pass one: Studio(image_model=...)",
                details={"field": "image_model"},
            )
        if not self._has_listener:
            return await image_model.generate(request)
        hide_previews = self._config.moderator.checks_images
        async with image_model.stream(request) as stream:
            async for event in stream:
                if not isinstance(event, imagegen.Done) and not (
                    hide_previews and isinstance(event, imagegen.Preview)
                ):
                    self._emit(ImageProgress(name, event))
        return stream.result

    async def _finish_and_derive(self, index: int, image: StudioImage) -> None:
        """Finish the image unless it is finished, then derive from it.

        The image is in the result, without derivatives, even when deriving fails.
        """
        if not image.finished:
            image = await self._finish(image)
        self._images[index] = image
        self._emit(ImageFinished(image))
        derivatives = await self._run_stage("derive", image.name, lambda: self._derive(image), None)
        self._images[index] = replace(image, derivatives=derivatives)
        for derived in derivatives:
            self._emit(DerivativeReady(image.name, derived))

    async def _finish(self, image: StudioImage) -> StudioImage:
        finished, notes = await self._run_stage(
            "finish", image.name, lambda: self._apply_recipe(image), None
        )
        return replace(image, image=finished, warnings=(*image.warnings, *notes), finished=True)

    async def _apply_recipe(self, image: StudioImage) -> tuple[ImagePart, tuple[CallWarning, ...]]:
        if self._stages.finish is None:
            return await self._config.finisher.finish(image.image, image.text)
        value = self._stages.finish(image)
        return _check_type(await value if isawaitable(value) else value, ImagePart, "finish"), ()

    async def _derive(self, image: StudioImage) -> tuple[Derived, ...]:
        if self._stages.derive is None:
            return tuple(await self._config.finisher.derive(image.image, image.name))
        # Imported here because it loads Pillow.
        from majordomo.imaging.derivation import Derived

        value = self._stages.derive(image)
        derivatives = as_tuple(await value if isawaitable(value) else value, "derive")
        return tuple(_check_type(derived, Derived, "derive") for derived in derivatives)

    async def _moderate_text(self, text: str) -> None:
        """Raise unless every moderator allows the text.

        Raises ContentRefusedError for a refusal, BackendError (MODERATION_FAILED) for a moderator
        that fails.
        """
        await self._moderate(lambda: self._config.moderator.check_text(text), text, "this text")

    async def _moderate_image(self, image: StudioImage) -> None:
        await self._moderate(
            lambda: self._config.moderator.check_image(image.image, image.prompt),
            image.prompt or image.name,
            "this image",
        )

    async def _moderate(
        self, check: Callable[[], Awaitable[Verdict]], stage_input: str, subject: str
    ) -> None:
        try:
            verdict = await check()
            allowed, categories, reason = verdict.allowed, list(verdict.categories), verdict.reason
        except Exception as error:
            failure = BackendError(
                f"the moderator gave no verdict on {subject}: {error}",
                code="MODERATION_FAILED",
                retryable=False,
            )
            failure.details["cause"] = with_stage(error, "moderate").to_dict()
            raise with_stage(failure, "moderate", stage_input) from error
        # Only True allows: a verdict that is None or another value is a refusal.
        if allowed is not True:
            message = f"a moderator refused {subject}" + (f": {reason}" if reason else "")
            raise with_stage(
                ContentRefusedError(message, details={"categories": categories}),
                "moderate",
                stage_input,
            )


def _check_type(value: Any, expected: type[T], stage: Stage) -> T:
    """Return the value of a stage, or raise InvalidRequestError (BAD_STAGE) for another type."""
    if not isinstance(value, expected):
        error = InvalidRequestError(
            f"the stage {stage!r} must return a {expected.__name__}; got a {type(value).__name__}",
            code="BAD_STAGE",
        )
        raise with_stage(error, stage)
    return value
