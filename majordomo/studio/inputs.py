"""The inputs that a run can start from, and the user's overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from majordomo import imagegen
from majordomo.errors import InvalidRequestError, MajordomoError
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.studio.classifier import MAX_IMAGES, Classification
from majordomo.studio.errors import with_stage
from majordomo.studio.plan import Plan
from majordomo.studio.result import StudioImage, StudioResult
from majordomo.studio.settings import SETTINGS, check_settings

StudioInput = (
    str
    | Classification
    | Plan
    | StudioResult
    | StudioImage
    | ImagePart
    | Sequence[StudioImage | ImagePart]
)
StudioOverrides = imagegen.Overrides
Images = tuple[StudioImage, ...]


def parse_input(value: object) -> str | Classification | Plan | Images:
    """Return a brief, a classification or a plan unchanged, and images as studio images.

    Raises InvalidRequestError (field `brief`) for a value that no run can start from.
    """
    if isinstance(value, (str, Classification, Plan)):
        return value
    if isinstance(value, StudioResult):
        return value.items
    images = [value] if isinstance(value, (StudioImage, ImagePart)) else value
    if (
        isinstance(images, Sequence)
        and images
        and all(isinstance(item, (StudioImage, ImagePart)) for item in images)
    ):
        if len(images) > MAX_IMAGES:
            raise _input_error(f"a run takes at most {MAX_IMAGES} images; got {len(images)}")
        return tuple(
            item if isinstance(item, StudioImage) else StudioImage(f"image-{number}", item)
            for number, item in enumerate(images, 1)
        )
    raise _input_error(
        "a run starts from a brief, a Classification, a Plan, images or a StudioResult;"
        f" got a {type(value).__name__}"
    )


def _input_error(message: str) -> MajordomoError:
    return with_stage(InvalidRequestError(message, field="brief"), "classify")


def split_overrides(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split overrides into settings of the plan and overrides of every image request.

    Raises InvalidRequestError naming the field; TypeError for an unknown name.
    """
    present = {name: value for name, value in overrides.items() if value is not None}
    settings = {name: value for name, value in present.items() if name in SETTINGS}
    request_overrides = {name: value for name, value in present.items() if name not in SETTINGS}
    try:
        check_settings(settings)
        request = imagegen.Request("x").override(**request_overrides)
        imagegen.request.check_request(request, Limits())
    except MajordomoError as error:
        raise with_stage(error, "plan") from None
    return settings, request_overrides
