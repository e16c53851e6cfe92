"""URLs in replies that name the files of a result, for backends that store results elsewhere.

A URL in a reply is untrusted: it only becomes a request for an origin, and the transport refuses
every origin that the provider does not allow (`majordomo.transport.multi_origin`).
"""

from __future__ import annotations

import re

from majordomo.dialects.image_fields import parse_base64_image
from majordomo.errors import BadResponseError
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

_MAX_URL_CHARACTERS = 8000
# Nothing that two parsers could read differently: no user name, no backslash, no percent sign or
# other character in the host than letters, digits, dots and hyphens, and ASCII only.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!-\"$-\[\]-~]*)?(?:#[!-~]*)?",
    re.IGNORECASE,
)
_DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w.+=-]+)*;base64,", re.IGNORECASE)


def read_result_url(url: object, limits: Limits) -> HTTPRequest | ImagePart:
    """Return the request that fetches a file, or the image in a data URL.

    Raises BadResponseError (`BAD_URL`) for a URL of any other form, without showing it: a signed
    URL is a secret. Raises it as `parse_base64_image` does for an unusable image in a data URL.
    """
    if isinstance(url, str):
        if _DATA_URL.match(url[:200]):
            # Base64 takes four characters for three bytes.
            if len(url) > limits.max_image_bytes // 3 * 4 + 200:
                raise BadResponseError(
                    f"the image in the response is larger than {limits.max_image_bytes:,} bytes",
                    code="IMAGE_TOO_LARGE",
                )
            return parse_base64_image(url, limits)
        if len(url) <= _MAX_URL_CHARACTERS and (parts := _URL.fullmatch(url)) is not None:
            port = f":{parts['port']}" if parts["port"] else ""
            return HTTPRequest(
                "GET",
                parts["path"] or "/",
                accept="image/*",
                from_origin=True,
                origin=f"{parts['scheme']}://{parts['host']}{port}".lower(),
            )
    raise BadResponseError(
        "the response names a result by something that is neither an http(s) URL nor a data URL",
        code="BAD_URL",
    )


def without_query(url: str) -> str:
    """Return a URL without its query, which may be a signature; a data URL becomes "data:"."""
    return "data:" if url[:5].lower() == "data:" else url.partition("?")[0]
