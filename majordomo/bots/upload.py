"""Images for a platform that takes only so many bytes."""

from __future__ import annotations

from collections.abc import Sequence

from majordomo.llm import ImagePart

FORMATS = ("png", "webp", "jpeg")


async def fit_upload(
    image: ImagePart,
    max_bytes: int,
    formats: Sequence[str] = FORMATS,
    min_side: int = 256,
    *,
    parameters: bool = False,
) -> ImagePart:
    """The image in at most `max_bytes` bytes and one of `formats` ("png", "webp", "jpeg", the one liked best first).

    The same ImagePart when it fits. Else encoded anew, in a worker thread: at falling quality, then with fewer pixels, the shorter side
    never below `min_side`. What it was made with (prompt and settings) is left out of a new encoding unless `parameters`.

    Raises InvalidRequestError naming the field; its code is IMAGE_TOO_LARGE when the image cannot be made to fit. A cancellation does
    not wait for the thread.
    """
    from majordomo.imaging import byte_budget as fitting
    from majordomo.imaging import in_thread

    if fitting.fits(image, max_bytes, fitting.check_fit(image, max_bytes, formats, min_side)):
        return image
    return await in_thread(fitting.fit, image, max_bytes, formats, min_side, parameters=parameters)


def fit_upload_sync(
    image: ImagePart,
    max_bytes: int,
    formats: Sequence[str] = FORMATS,
    min_side: int = 256,
    *,
    parameters: bool = False,
) -> ImagePart:
    """`fit_upload`, here and now."""
    from majordomo.imaging import byte_budget as fitting

    return fitting.fit(image, max_bytes, formats, min_side, parameters=parameters)
