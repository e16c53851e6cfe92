"""The base URL of a backend and the headers that are sent with every request, parsed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from majordomo.errors import BadResponseError, ConfigurationError
from majordomo.redaction import Secret


@dataclass(frozen=True, slots=True)
class BaseURL:
    """A parsed base URL."""

    scheme: str
    """`http` or `https`."""
    host: str
    """Host name in ASCII (IDNA), or IP address; IPv6 without brackets."""
    port: int
    """TCP port: 1 to 65535."""
    path: str
    """Path without trailing slashes. May be empty."""

    @classmethod
    def parse(cls, url: str, field: str = "base_url") -> BaseURL:
        """Parse `http(s)://host[:port][/path]`.

        Raises:
            ConfigurationError: Naming `field`, for anything else, and for a URL with credentials, a
                query or a fragment.
        """
        problem = _character_problem(url)
        if problem is None:
            try:
                parts = urlsplit(url.strip())
                port = parts.port
            except ValueError:
                problem = "its host or port cannot be parsed"
        if problem is None and (parts.username is not None or parts.password is not None):
            problem = "it contains credentials; use api_key or headers instead"
        if problem is None and (parts.scheme not in ("http", "https") or not parts.hostname):
            problem = "it must begin with http:// or https:// and have a host"
        if problem is None and (parts.query or parts.fragment):
            problem = "it must not have a query or fragment"
        if problem is None:
            assert parts.hostname is not None
            try:
                host = (
                    parts.hostname
                    if ":" in parts.hostname
                    else parts.hostname.encode("idna").decode("ascii")
                )
            except UnicodeError:
                problem = "its host is not a valid name"
        if problem is not None:
            # Do not show the URL: it may contain a password.
            raise ConfigurationError(
                f"{field} is not a valid URL: {problem}", details={"field": field}
            )
        return cls(
            parts.scheme,
            host,
            port or (443 if parts.scheme == "https" else 80),
            parts.path.rstrip("/"),
        )

    @property
    def secure(self) -> bool:
        """Whether the scheme is https."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """`host[:port]` as in the Host header and in logs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """`scheme://host[:port]`."""
        return f"{self.scheme}://{self.authority}"

    def refuse_other_origin(self, origin: str) -> None:
        """Raise BadResponseError (`ORIGIN_NOT_ALLOWED`) for an origin that is not this one.

        "" means this one. A transport calls it before it sends a request, which carries the
        provider's headers.
        """
        if origin not in ("", self.origin):
            raise BadResponseError(
                f"this transport only sends requests to {self.origin}; got one for"
                f" {origin[:200]!r}, and nothing was sent",
                code="ORIGIN_NOT_ALLOWED",
            )


def _character_problem(url: object) -> str | None:
    if not isinstance(url, str):
        return f"it must be a str; got {type(url).__name__}"
    if (
        len(url) > 2000
        or not url.isprintable()
        or any(c.isspace() for c in url.strip())
        or "\\" in url
    ):
        return "it contains characters that are not allowed in a URL"
    return None


Headers = Sequence[tuple[bytes, bytes]]
"""Encoded header names and values."""


def encode_headers(base_url: BaseURL, headers: Mapping[str, Secret]) -> Headers:
    """Return the headers of every request, including Host and User-Agent.

    Raises:
        ConfigurationError: Naming the header but not its value, if a header cannot be set.
    """
    encoded = [(b"Host", base_url.authority.encode("ascii")), (b"User-Agent", b"majordomo")]
    for name, value in headers.items():
        if (
            not name.isascii()
            or not name.replace("-", "").replace("_", "").isalnum()
            or name.lower() in _RESERVED_HEADERS
        ):
            raise ConfigurationError(
                f"header {name!r} cannot be set: its name is invalid, or the transport sets it",
                details={"field": "headers"},
            )
        if not value.fits_header():
            raise ConfigurationError(
                f"the value of header {name!r} must be printable ASCII without surrounding spaces",
                details={"field": "headers"},
            )
        encoded.append((name.encode(), value.reveal().encode()))
    return encoded


# The transport sets these itself.
_RESERVED_HEADERS = {
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "accept",
    "accept-encoding",
    "content-type",
    "upgrade",
    "te",
    "trailer",
}
