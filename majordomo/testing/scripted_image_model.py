"""An image model that answers from a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, get_args

import anyio.lowlevel

from majordomo import imagegen
from majordomo.errors import CallWarning, MajordomoError, NoImageError, StreamBrokenError
from majordomo.imagegen.events import ProgressEvent
from majordomo.media.image_part import ImagePart
from majordomo.models.call_context import CallContext
from majordomo.models.image_model import ImageModel
from majordomo.settings import Limits
from majordomo.testing.errors import ScriptError
from majordomo.testing.pause import Pause
from majordomo.testing.script import Script, copy_error, is_error

EVENTS = get_args(ProgressEvent)
ImageScript = Iterable[Any] | Callable[[imagegen.Request], Any] | Script[imagegen.Request]


class ScriptedImageModel(ImageModel):
    """An image model that answers from a script.

    Options, validation, the sync and async API and the order of events are those of every image
    model.

    An answer is an `ImagePart`, an `imagegen.Result`, an error to raise, or a list of steps that
    are emitted one by one. Steps are the same values, and `Queued`, `Loading`, `Step`, `Preview`
    and `Pause`. A `StreamBrokenError` gets the result so far (None before the first image) as its
    `partial`.

    Args:
        script: A list of answers, used in the order of the requests, or a function, which may be
            async, from request to answer.
        *options: Defaults for every request.
        id: Model id.
        provider: Name of the provider, as in errors and results.
        limits: Limits on the size of requests.

    Raises:
        ScriptError: The script contains something that is not an answer. In a call: no answer is
            left (SCRIPT_EXHAUSTED).

    Example:
        ```pycon
        >>> model = ScriptedImageModel([[imagegen.Step(1, 2), plain_image()]])
        ```
    """

    def __init__(
        self,
        script: ImageScript,
        *options: imagegen.Option,
        id: str = "scripted-image",
        provider: str = "scripted",
        limits: Limits | None = None,
    ) -> None:
        super().__init__(provider, id, options, limits=limits or Limits())
        self.script: Script[imagegen.Request] = image_script(script)

    @property
    def requests(self) -> list[imagegen.Request]:
        """All requests, in order, with all options applied."""
        return self.script.requests

    @property
    def remaining(self) -> int:
        """Number of unused answers."""
        return self.script.remaining

    async def _generate(self, request: imagegen.Request, call: CallContext) -> imagegen.Result:
        try:
            answer = await self.script.next_answer(request)
            template: imagegen.Result | None = None
            images: list[ImagePart] = []
            for step in answer if isinstance(answer, (list, tuple)) else [answer]:
                await anyio.lowlevel.checkpoint()
                if isinstance(step, Pause):
                    await step.pass_through()
                elif isinstance(step, imagegen.Result):
                    template = step
                    images += step.images
                elif isinstance(step, ImagePart):
                    images.append(step)
                elif is_error(step):
                    raise self._with_partial(copy_error(step), request, images)
                elif call.emit is not None:
                    call.emit(step)
            if not images:
                raise NoImageError("the answer in the script contains no image")
            return self._result(request, images, template)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise

    def _result(
        self,
        request: imagegen.Request,
        images: list[ImagePart],
        template: imagegen.Result | None = None,
    ) -> imagegen.Result:
        if template is not None and len(images) == len(template.images):
            result = replace(template, model=template.model or self.id, provider=self.provider)
        else:
            details = tuple(
                imagegen.ImageDetails(
                    None if request.seed is None else request.seed + index,
                    requested_size=request.pixels,
                    sent_size=request.pixels,
                    actual_size=(image.width, image.height),
                )
                for index, image in enumerate(images)
            )
            result = imagegen.Result(tuple(images), details, model=self.id, provider=self.provider)
        if request.n and len(images) != request.n:
            warning = CallWarning(
                "COUNT_DIFFERS", f"{request.n} images were requested, {len(images)} received", "n"
            )
            result = replace(result, warnings=(*result.warnings, warning))
        return result

    def _with_partial(
        self, error: Exception, request: imagegen.Request, images: list[ImagePart]
    ) -> Exception:
        if isinstance(error, StreamBrokenError) and error.partial is None and images:
            error.partial = self._result(request, images)
        return error


def image_script(script: ImageScript) -> Script[imagegen.Request]:
    """Return the script itself, or a new one from its answers."""
    if isinstance(script, Script):
        return script
    return Script(script, check_answer, (str, bytes, ImagePart, imagegen.Result, *EVENTS))


def check_answer(answer: Any) -> None:
    """Raise `ScriptError` for a value that an image model cannot answer."""
    for step in answer if isinstance(answer, (list, tuple)) else [answer]:
        if not isinstance(step, (ImagePart, imagegen.Result, Pause, *EVENTS)) and not is_error(
            step
        ):
            raise ScriptError(
                "an answer of an image model must be an ImagePart, a Result, an event, a Pause, "
                f"an error, or a list of these; got {type(step).__name__}"
            )
