"""OpenAI's picture routes as llama-swap passes them on and sd-server answers them: JSON in, base64 out.

Sources: openai-openapi at f85dbe2, llama-swap at 0bdb372, stable-diffusion.cpp at 97d2990.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from majordomo.dialects.bodies import UNSUPPORTED, merged, unsupported
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.pictures import received
from majordomo.dialects.sdcpp_tag import MOST_STEPS, encode_tag, in_its_words, neutralise
from majordomo.errors import BadResponseError, CallWarning, InvalidRequestError, NoImageError, UnsupportedError
from majordomo.framing.json import encode_json
from majordomo.framing.pictures import PictureReplyDecoder
from majordomo.imagegen import ImageDetails, Request, Result, Usage
from majordomo.media import ImagePart, png_text
from majordomo.settings import Limits
from majordomo.wire import WireRequest

_SEED = re.compile(r"\bSeed: (\d{1,19})\b")


@dataclass(frozen=True, slots=True)
class OpenAIImages:
    """Client door of `/v1/images/generations`."""

    tag: bool = True  # behind it stands stable-diffusion.cpp, which reads settings only from the tag
    path: str = "/v1/images/generations"

    def encode(self, model: str, request: Request) -> tuple[WireRequest, list[CallWarning]]:
        """The request and what of it will not happen. Raises UnsupportedError for pictures to edit."""
        if request.images:
            raise UnsupportedError("this route draws from text only: it takes no pictures to edit", field="images")
        if self.tag:
            request = in_its_words(request)
        prompt, was_tagged = neutralise(request.prompt)
        warnings = []
        if was_tagged:
            warnings.append(
                CallWarning("TAG_NEUTRALISED", "the prompt held <sd_cpp_extra_args>; it was broken so that it sets nothing", "prompt")
            )
        body: dict[str, Any] = {"model": model, "prompt": prompt}
        if request.n:
            body["n"] = request.n
        if request.size:
            body["size"] = request.size
        settings = (
            ("steps", request.steps),
            ("cfg_scale", request.cfg_scale),
            ("negative_prompt", request.negative_prompt or None),
            ("sample_method", request.sampler or None),
            ("scheduler", request.scheduler or None),
            ("seed", request.seed),
            ("output_format", request.output_format or None),
        )
        body.update({name: value for name, value in settings if value is not None})
        if self.tag:
            body["prompt"] = encode_tag(request) + prompt
            warnings += unsupported(request, ("quality", "background"), "stable-diffusion.cpp has no such setting")
            if request.steps is not None and request.steps > MOST_STEPS:
                warnings.append(CallWarning(UNSUPPORTED, f"stable-diffusion.cpp draws at most {MOST_STEPS} steps", "steps"))
            if request.seed is None:
                warnings.append(
                    CallWarning(
                        "SEED_DEFAULT", "no seed was set: a stable-diffusion.cpp server then draws from its own, usually always 42", "seed"
                    )
                )
        else:
            for name in ("quality", "background"):
                if value := getattr(request, name):
                    body[name] = value
        warnings += unsupported(request, ("strength",), "it needs images, which this route does not take")
        warnings += unsupported(request, ("previews",), "this route shows no unfinished pictures")
        body["response_format"] = "b64_json"
        wire = WireRequest("POST", self.path, encode_json(merged(body, request.extra)), "application/json")
        return wire, warnings

    def reply_decoder(self, limits: Limits) -> PictureReplyDecoder:
        """Feed it the answer's bytes as they come, then give it to `decode`."""
        return PictureReplyDecoder(limit=limits.picture_reply, picture_limit=limits.picture, depth=limits.depth)

    def decode(self, reply: PictureReplyDecoder, request: Request, limits: Limits) -> Result:
        """The pictures. Raises NoImageError when there is none, BadResponseError for what is no picture or no answer."""
        document = reply.finish()
        if "error" in document and not document.get("data"):
            raise build_error(200, error_value(document), {})
        data = document.get("data")
        if not isinstance(data, list):
            raise BadResponseError('the answer has no list "data"')
        images: list[ImagePart] = []
        details: list[ImageDetails] = []
        warnings: list[CallWarning] = []
        for index, item in enumerate(data):
            picture = _picture(item, reply.pictures, limits)
            if picture is None:
                warnings.append(CallWarning("PICTURE_MISSING", f"entry {index} of the answer holds no picture bytes"))
                continue
            details.append(_details(picture, item, request, len(images), counted=self.tag))
            images.append(picture)
        if not images:
            linked = any(isinstance(item, dict) and item.get("url") for item in data)
            raise NoImageError(
                "the answer has a link instead of a picture; links are never fetched" if linked else "the answer holds no picture"
            )
        warnings += _compared(request, images)
        return Result(tuple(images), tuple(details), tuple(warnings), _usage(document.get("usage")), raw=_elided(document, images))


def _picture(item: Any, cut: Sequence[bytes], limits: Limits) -> ImagePart | None:
    value = item.get("b64_json") if isinstance(item, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(cut):
            raise BadResponseError("b64_json is a number")
        return received(cut[value], limits)
    if isinstance(value, str) and value:
        try:
            return received(ImagePart.from_base64(value.partition(",")[2] if value.startswith("data:") else value).data, limits)
        except InvalidRequestError:
            raise BadResponseError("b64_json is no picture in base64", code="NOT_A_PICTURE") from None
    return None


def _details(picture: ImagePart, item: Mapping[str, Any], request: Request, index: int, *, counted: bool) -> ImageDetails:
    written = png_text(picture.data) if picture.mime == "image/png" else {}
    # The settings are the last line of the text; the prompt before it may say "Seed: 5" as well
    told = _SEED.search(written.get("parameters", "").rpartition("\nSteps: ")[2])
    # Batch item i is drawn from seed + i (stable-diffusion.cpp)
    sent = request.seed + index if request.seed is not None and counted else request.seed
    revised = item.get("revised_prompt")
    return ImageDetails(
        seed=int(told[1]) if told else sent,
        revised_prompt=revised if isinstance(revised, str) and revised else None,
        size_asked=request.pixels,
        size_sent=request.pixels,
        size_got=(picture.width, picture.height),
        settings=dict(written),
    )


def _compared(request: Request, images: Sequence[ImagePart]) -> list[CallWarning]:
    warnings = []
    if request.n and len(images) != request.n:
        warnings.append(CallWarning("COUNT_DIFFERS", f"{request.n} pictures were asked for, {len(images)} came", "n"))
    asked = request.pixels
    got = {(image.width, image.height) for image in images}
    if asked is not None and got != {asked}:
        words = ", ".join(f"{width}x{height}" for width, height in sorted(got))
        warnings.append(CallWarning("SIZE_DIFFERS", f"size {request.size} was asked for, {words} came", "size"))
    return warnings


def _usage(value: Any) -> Usage:
    if not isinstance(value, dict):
        return Usage()
    counts = [
        v if isinstance(v := value.get(k), int) and not isinstance(v, bool) and v >= 0 else None for k in ("input_tokens", "output_tokens")
    ]
    return Usage(counts[0], counts[1])


def _elided(document: dict[str, Any], images: Sequence[ImagePart]) -> dict[str, Any]:
    data = []
    sizes = iter(images)
    for item in document["data"]:
        if isinstance(item, dict) and item.get("b64_json") not in (None, ""):
            picture = next(sizes, None)
            item = {**item, "b64_json": f"<{picture.mime}, {len(picture.data)} bytes>" if picture else "<elided>"}
        data.append(item)
    return {**document, "data": data}
