"""Where a run begins, and what its caller wishes over the brief."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from majordomo import imagegen
from majordomo.errors import InvalidRequestError, MajordomoError
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.studio.classifier import MOST_COUNT, Classification
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


def check_input(start: object) -> str | Classification | Plan | Images:
    """Raises InvalidRequestError (field `brief`) for what no run can begin with."""
    if isinstance(start, (str, Classification, Plan)):
        return start
    if isinstance(start, StudioResult):
        return start.items
    given = [start] if isinstance(start, (StudioImage, ImagePart)) else start
    if (
        isinstance(given, Sequence)
        and given
        and all(isinstance(item, (StudioImage, ImagePart)) for item in given)
    ):
        if len(given) > MOST_COUNT:
            raise _no_start(f"a run takes at most {MOST_COUNT} images")
        named = (
            item if isinstance(item, StudioImage) else StudioImage(f"image-{at}", item)
            for at, item in enumerate(given, 1)
        )
        return tuple(named)
    raise _no_start(
        f"a run begins with a brief, a Classification, a Plan, images or an Outcome, not with {type(start).__name__}"
    )


def _no_start(message: str) -> MajordomoError:
    return with_stage(InvalidRequestError(message, field="brief"), "classify")


def split_overrides(wishes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those for the plan, and those for every request to the painter. Raises InvalidRequestError naming the field; TypeError for a name
    that is none."""
    given = {name: value for name, value in wishes.items() if value is not None}
    settings = {name: value for name, value in given.items() if name in SETTINGS}
    overrides = {name: value for name, value in given.items() if name not in SETTINGS}
    try:
        check_settings(settings)
        imagegen.request.check_request(imagegen.Request("x").override(**overrides), Limits())
    except MajordomoError as error:
        raise with_stage(error, "plan") from None
    return settings, overrides
