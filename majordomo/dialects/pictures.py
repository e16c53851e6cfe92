"""Pictures in answers: nothing a backend calls a picture is believed before its bytes say so."""

from __future__ import annotations

from majordomo.errors import BadResponseError, InvalidRequestError
from majordomo.media import SENDABLE, ImagePart, check_size, png_chunks
from majordomo.settings import Limits


def received(data: bytes, limits: Limits) -> ImagePart:
    """A picture from an answer. Raises BadResponseError when it is none, is cut off, or is larger than the limits; nothing is decoded."""
    try:
        picture = ImagePart(data)
        check_size(picture, max_pixels=limits.pixels, max_side=limits.side, max_bytes=limits.picture)
    except InvalidRequestError as error:
        raise BadResponseError(f"the answer's picture is unusable: {error.message}", code=error.code) from None
    if picture.mime not in SENDABLE:
        raise BadResponseError(f"the answer's picture is a {picture.mime}; PNG, JPEG and WebP are received", code="NOT_A_PICTURE")
    if not _is_whole(picture):
        raise BadResponseError(f"the answer's {picture.mime} picture is cut off", code="PICTURE_CUT")
    return picture


def _is_whole(picture: ImagePart) -> bool:
    data = picture.data
    if picture.mime == "image/png":
        return any(kind == b"IEND" for kind, _ in png_chunks(data))
    if picture.mime == "image/jpeg":
        return b"\xff\xd9" in data[-4096:]  # some writers add bytes behind the end-of-image mark
    return len(data) >= int.from_bytes(data[4:8], "little") + 8
