"""Images within the upload limit of a platform."""

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
    """Return the image in at most `max_bytes` bytes.

    An image that fits is returned unchanged. Otherwise it is encoded again in a worker thread: with
    decreasing quality, then with fewer pixels. A cancellation does not wait for the thread.

    Args:
        image: The image.
        max_bytes: Maximum size of the file in bytes, 1 to 2**40.
        formats: Accepted formats, preferred first: some of "png", "webp", "jpeg" and "avif"; "gif"
            applies only to an image that already fits. Default: "png", "webp", "jpeg".
        min_side: Minimum length in pixels of the shorter side, 1 to 16,384; 256 by default. A
            smaller image is not scaled.
        parameters: Whether a new encoding keeps the generation parameters (prompt and settings).

    Raises:
        InvalidRequestError: An argument is invalid, named by `field`; or the image cannot be made
            to fit, with the code IMAGE_TOO_LARGE.

    Example:
        ```python
        image = await fit_upload(result.image, 8 * 1024 * 1024)
        ```
    """
    from majordomo.imaging import byte_budget, in_thread

    if byte_budget.fits(
        image, max_bytes, byte_budget.check_fit(image, max_bytes, formats, min_side)
    ):
        return image
    return await in_thread(
        byte_budget.fit, image, max_bytes, formats, min_side, parameters=parameters
    )


def fit_upload_sync(
    image: ImagePart,
    max_bytes: int,
    formats: Sequence[str] = FORMATS,
    min_side: int = 256,
    *,
    parameters: bool = False,
) -> ImagePart:
    """Blocking version of `fit_upload`; the work is done in the calling thread.

    Args:
        image: The image.
        max_bytes: Maximum size of the file in bytes, 1 to 2**40.
        formats: Accepted formats, preferred first: some of "png", "webp", "jpeg" and "avif"; "gif"
            applies only to an image that already fits. Default: "png", "webp", "jpeg".
        min_side: Minimum length in pixels of the shorter side, 1 to 16,384; 256 by default. A
            smaller image is not scaled.
        parameters: Whether a new encoding keeps the generation parameters (prompt and settings).

    Raises:
        InvalidRequestError: An argument is invalid, named by `field`; or the image cannot be made
            to fit, with the code IMAGE_TOO_LARGE.
    """
    from majordomo.imaging import byte_budget

    return byte_budget.fit(image, max_bytes, formats, min_side, parameters=parameters)
