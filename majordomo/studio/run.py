"""One run: the stages in order, the images beside each other. What fails for one image costs the others nothing."""

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
Tell = Callable[[StudioEvent], None]


class Run:
    """What is wanted, with what; `work` does it."""

    def __init__(
        self,
        equipment: StudioConfig,
        start: str | Classification | Plan | Images,
        settings: dict[str, Any],
        overrides: dict[str, Any],
    ) -> None:
        self._with = equipment
        self._start = start
        self._settings = settings
        self._overrides = overrides

    async def execute(self, emit: Tell | None) -> StudioResult:
        return await _StudioRun(self._with, self._settings, self._overrides, emit).outcome(
            self._start
        )


class _StudioRun:
    def __init__(
        self,
        equipment: StudioConfig,
        settings: dict[str, Any],
        overrides: dict[str, Any],
        emit: Tell | None,
    ) -> None:
        self._with = equipment
        self._stages = equipment.stages
        self._settings = settings
        self._overrides = overrides
        self._listened = emit is not None
        self._emit: Tell = emit or (lambda _: None)
        self._places = anyio.Semaphore(equipment.max_concurrency)
        self._images: dict[int, StudioImage] = {}
        self._errors: dict[int, list[MajordomoError]] = {}

    async def outcome(self, start: str | Classification | Plan | Images) -> StudioResult:
        if isinstance(start, tuple):
            await self._beside(
                [partial(self._from_image, at, image) for at, image in enumerate(start)]
            )
            return self._whole(None)
        plan = await self._planned(start)
        hidden, text = self._with.moderator.looks, plan.classification.text
        overrides = {"previews": self._with.previews if self._listened else 0, **self._overrides}
        requests = requests_for(plan, overrides, hidden=hidden)
        await self._beside(
            [
                partial(self._from_prompt, at, prompt, request, text)
                for at, (prompt, request) in enumerate(requests)
            ]
        )
        return self._whole(plan)

    def _whole(self, plan: Plan | None) -> StudioResult:
        errors = [error for at in sorted(self._errors) for error in self._errors[at]]
        if not self._images:
            first = errors[0]
            first.details["failures"] = (
                [error.to_dict() for error in errors] if len(errors) > 1 else []
            )
            raise first
        return StudioResult(
            tuple(self._images[at] for at in sorted(self._images)), plan, tuple(errors)
        )

    async def _beside(self, works: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """All of them, at most so many at once as the studio allows. They keep their own errors, so no group of them ever leaves."""
        async with anyio.create_task_group() as group:
            for work in works:
                group.start_soon(work)

    async def _stage(
        self,
        stage: Stage,
        asked: str,
        own: Callable[..., Any],
        given: Callable[..., Any] | None,
        *arguments: Any,
    ) -> Any:
        """A stage, by its function from outside where there is one. Every failure says where it was."""
        try:
            made = own() if given is None else given(*arguments)
            return await made if isawaitable(made) else made
        except Exception as error:
            told = with_stage(error, stage, asked)
            raise told from told.__cause__

    async def _planned(self, start: str | Classification | Plan) -> Plan:
        if isinstance(start, str):
            start = await self._classified(start)
        read = start.classification if isinstance(start, Plan) else start
        await self._allowed_text(read.brief)
        plan = start if isinstance(start, Plan) else await self._thought(read)
        plan = plan_with_settings(plan, self._settings, self._with.max_images)
        self._emit(PlanReady(plan))
        return plan

    async def _classified(self, brief: str) -> Classification:
        known = self._with.assistant.vocabulary
        made = await self._stage(
            "classify", brief, lambda: classify(brief, known), self._stages.classify, brief
        )
        read = _expected(made, Classification, "classify")
        self._emit(Classified(read))
        return read

    async def _thought(self, read: Classification) -> Plan:
        settings: dict[str, Any] = {
            **self._settings,
            "user_id": self._overrides.get("user_id") or "",
        }
        made = await self._stage(
            "plan",
            read.brief,
            lambda: self._with.assistant.plan(read, **settings),
            self._stages.plan,
            read,
        )
        return _expected(made, Plan, "plan")

    async def _from_prompt(
        self, at: int, prompt: NamedPrompt, request: imagegen.Request, text: str
    ) -> None:
        shown: StudioImage | None = None  # none before it is allowed
        try:
            if self._places.value == 0:
                self._emit(ImageProgress(prompt.name, Queued()))
            async with self._places:
                await self._allowed_text(
                    prompt.prompt
                )  # a negative prompt names what is not wanted
                made = await self._stage(
                    "paint",
                    prompt.prompt,
                    lambda: self._drawn(prompt.name, request),
                    self._stages.paint,
                    request,
                )
                fresh = studio_image(
                    prompt, request, _expected(made, imagegen.Result, "paint"), text
                )
                await self._allowed(fresh)
                shown = fresh
                await self._finished(at, fresh)
        except Exception as error:
            self._failed(at, prompt.name, with_stage(error, "paint", prompt.prompt), shown)

    async def _from_image(self, at: int, image: StudioImage) -> None:
        shown: StudioImage | None = None
        try:
            async with self._places:
                await self._allowed(image)
                shown = image
                await self._finished(at, image)
        except Exception as error:
            self._failed(at, image.name, with_stage(error, "finish", image.name), shown)

    def _failed(self, at: int, name: str, error: MajordomoError, shown: StudioImage | None) -> None:
        error.details.setdefault("image", name)
        self._errors.setdefault(at, []).append(error)
        self._emit(ImageFailed(name, error, shown))

    async def _drawn(self, name: str, request: imagegen.Request) -> imagegen.Result:
        image_model = self._with.image_model
        if image_model is None:
            raise ConfigurationError(
                "the studio has no painter: Studio(painter=...)", details={"field": "painter"}
            )
        if not self._listened:
            return await image_model.generate(request)
        hidden = self._with.moderator.looks
        async with image_model.stream(request) as stream:
            async for event in stream:
                if not isinstance(event, imagegen.Done) and not (
                    hidden and isinstance(event, imagegen.Preview)
                ):
                    self._emit(ImageProgress(name, event))
        assert stream.result is not None  # a stream that ends without Done raises
        return stream.result

    async def _finished(self, at: int, given: StudioImage) -> None:
        image = given if given.finished else await self._completed(given)
        self._images[at] = image
        self._emit(ImageFinished(image))
        made = await self._stage("derive", image.name, lambda: self._derived(image), None)
        self._images[at] = replace(image, derivatives=made)
        for derived in made:
            self._emit(DerivativeReady(image.name, derived))

    async def _completed(self, given: StudioImage) -> StudioImage:
        image, notes = await self._stage("finish", given.name, lambda: self._changed(given), None)
        return replace(given, image=image, warnings=(*given.warnings, *notes), finished=True)

    async def _changed(self, given: StudioImage) -> tuple[ImagePart, tuple[CallWarning, ...]]:
        if self._stages.finish is None:
            return await self._with.finisher.finish(given.image, given.text)
        made = self._stages.finish(given)
        return _expected(await made if isawaitable(made) else made, ImagePart, "finish"), ()

    async def _derived(self, image: StudioImage) -> tuple[Derived, ...]:
        if self._stages.derive is None:
            return tuple(await self._with.finisher.derive(image.image, image.name))
        from majordomo.imaging.derivation import Derived  # it loads Pillow

        made = self._stages.derive(image)
        derived = as_tuple(await made if isawaitable(made) else made, "derive")
        return tuple(_expected(one, Derived, "derive") for one in derived)

    async def _allowed_text(self, text: str) -> None:
        """Raises ContentRefusedError when a moderator refuses these words, BackendError (MODERATION_FAILED) when it cannot say."""
        await self._judged(lambda: self._with.moderator.text(text), text, "these words")

    async def _allowed(self, image: StudioImage) -> None:
        asked = image.prompt or image.name
        await self._judged(
            lambda: self._with.moderator.image(image.image, image.prompt), asked, "this image"
        )

    async def _judged(self, judge: Callable[[], Awaitable[Verdict]], asked: str, what: str) -> None:
        try:
            verdict = await judge()
            allowed, categories, reason = verdict.allowed, list(verdict.categories), verdict.reason
        except Exception as error:
            failed = BackendError(
                f"no verdict on {what}: {error}", code="MODERATION_FAILED", retryable=False
            )
            failed.details["cause"] = with_stage(error, "moderate").to_dict()
            raise with_stage(failed, "moderate", asked) from error
        if allowed is not True:
            said = f"a moderator refused {what}" + (f": {reason}" if reason else "")
            raise with_stage(
                ContentRefusedError(said, details={"categories": categories}), "moderate", asked
            )


def _expected(value: Any, kind: type[T], stage: Stage) -> T:
    if not isinstance(value, kind):
        wrong = InvalidRequestError(
            f"the stage {stage!r} gave a {type(value).__name__}, not a {kind.__name__}",
            code="BAD_STAGE",
        )
        raise with_stage(wrong, stage)
    return value
