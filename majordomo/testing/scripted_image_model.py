"""An image model that gives what the test wrote down."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import anyio.lowlevel

from majordomo import imagegen
from majordomo.errors import CallWarning, MajordomoError, NoImageError, StreamBrokenError
from majordomo.media.image_part import ImagePart
from majordomo.models.image_model import Emit, ImageModel
from majordomo.settings import Limits
from majordomo.testing.errors import ScriptError
from majordomo.testing.pause import Pause
from majordomo.testing.script import Script, is_error, raised

EVENTS = (imagegen.Queued, imagegen.Loading, imagegen.Step, imagegen.Preview)
ImageScript = Iterable[Any] | Callable[[imagegen.Request], Any] | Script[imagegen.Request]


class ScriptedImageModel(ImageModel):
    """Draws from a script; options, checks, both colors and the order of events are those of every image model.

    `script` is a list of answers, used in the order of asking, or a function (it may be async) from the request to an answer. An answer is
    an ImagePart, an imagegen.Result, an error to raise, or a list of these, told one by one, which may also hold Queued, Loading, Step,
    Preview and `Pause`. A StreamBrokenError gets the Result so far (None before the first image) as its `partial`. `requests` are all
    requests drawn, with all options applied. Raises ScriptError for what is no answer, and when asked after the last one.
    """

    def __init__(
        self,
        script: ImageScript,
        *options: imagegen.Option,
        id: str = "scripted-painter",
        provider: str = "scripted",
        limits: Limits | None = None,
    ) -> None:
        super().__init__(provider, id, options, limits=limits or Limits())
        self.script: Script[imagegen.Request] = image_script(script)

    @property
    def requests(self) -> list[imagegen.Request]:
        return self.script.requests

    @property
    def remaining(self) -> int:
        """Answers not used yet."""
        return self.script.remaining

    async def _generate(self, request: imagegen.Request, emit: Emit | None) -> imagegen.Result:
        try:
            answer = await self.script.next_answer(request)
            given: imagegen.Result | None = None
            images: list[ImagePart] = []
            for beat in answer if isinstance(answer, (list, tuple)) else [answer]:
                await anyio.lowlevel.checkpoint()
                if isinstance(beat, Pause):
                    await beat.pass_through()
                elif isinstance(beat, imagegen.Result):
                    given = beat
                    images += beat.images
                elif isinstance(beat, ImagePart):
                    images.append(beat)
                elif is_error(beat):
                    raise self._failure(raised(beat), request, images)
                elif emit is not None:
                    emit(beat)
            if not images:
                raise NoImageError("the script's answer holds no image")
            return self._result(request, images, given)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise

    def _result(
        self,
        request: imagegen.Request,
        images: list[ImagePart],
        given: imagegen.Result | None = None,
    ) -> imagegen.Result:
        if given is not None and len(images) == len(given.images):
            result = replace(given, model=given.model or self.id, provider=self.provider)
        else:
            details = tuple(
                imagegen.ImageDetails(
                    None if request.seed is None else request.seed + index,
                    size_asked=request.pixels,
                    size_sent=request.pixels,
                    size_got=(image.width, image.height),
                )
                for index, image in enumerate(images)
            )
            result = imagegen.Result(tuple(images), details, model=self.id, provider=self.provider)
        if request.n and len(images) != request.n:
            warning = CallWarning(
                "COUNT_DIFFERS", f"{request.n} images were asked for, {len(images)} came", "n"
            )
            result = replace(result, warnings=(*result.warnings, warning))
        return result

    def _failure(
        self, error: Exception, request: imagegen.Request, images: list[ImagePart]
    ) -> Exception:
        if isinstance(error, StreamBrokenError) and error.partial is None and images:
            error.partial = self._result(request, images)
        return error


def image_script(script: ImageScript) -> Script[imagegen.Request]:
    if isinstance(script, Script):
        return script
    return Script(script, check_answer, (str, bytes, ImagePart, imagegen.Result, *EVENTS))


def check_answer(answer: Any) -> None:
    """Raise ScriptError for what an image model cannot give."""
    for beat in answer if isinstance(answer, (list, tuple)) else [answer]:
        if not isinstance(beat, (ImagePart, imagegen.Result, Pause, *EVENTS)) and not is_error(
            beat
        ):
            raise ScriptError(f"a {type(beat).__name__} is nothing an image model gives")
