"""A base URL and the headers that go with it, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from majordomo.errors import ConfigurationError
from majordomo.redaction import Secret


@dataclass(frozen=True, slots=True)
class BaseURL:
    """Where a backend is: `scheme` http or https, `path` without its last slash."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str, field: str = "base_url") -> BaseURL:
        """Raises ConfigurationError, naming the field, for anything but http(s)://host[:port][/path] without credentials and query."""
        trouble = _problem(url)
        if trouble is None:
            try:
                parts = urlsplit(url.strip())
                port = parts.port
            except ValueError:
                trouble = "its host or port cannot be read"
        if trouble is None and (parts.username is not None or parts.password is not None):
            trouble = "credentials do not belong into a URL; use api_key or headers"
        if trouble is None and (parts.scheme not in ("http", "https") or not parts.hostname):
            trouble = "it must begin with http:// or https:// and name a host"
        if trouble is None and (parts.query or parts.fragment):
            trouble = "it has a query or fragment"
        if trouble is None:
            assert parts.hostname is not None
            try:
                host = (
                    parts.hostname
                    if ":" in parts.hostname
                    else parts.hostname.encode("idna").decode("ascii")
                )
            except UnicodeError:
                trouble = "its host is no name"
        if trouble is not None:
            # The URL itself is not shown: it may hold a password
            raise ConfigurationError(f"{field} is unusable: {trouble}", details={"field": field})
        return cls(
            parts.scheme,
            host,
            port or (443 if parts.scheme == "https" else 80),
            parts.path.rstrip("/"),
        )

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """host[:port] as the Host header and logs have it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"


def _problem(url: object) -> str | None:
    if not isinstance(url, str):
        return f"it is a {type(url).__name__}, not text"
    if (
        len(url) > 2000
        or not url.isprintable()
        or any(c.isspace() for c in url.strip())
        or "\\" in url
    ):
        return "it holds characters that no URL has"
    return None


Headers = Sequence[tuple[bytes, bytes]]


def encode_headers(address: BaseURL, headers: Mapping[str, Secret]) -> Headers:
    """Host and the headers of every request. Raises ConfigurationError, naming the header but not its value."""
    encoded = [(b"Host", address.authority.encode("ascii")), (b"User-Agent", b"majordomo")]
    for name, value in headers.items():
        if (
            not name.isascii()
            or not name.replace("-", "").replace("_", "").isalnum()
            or name.lower() in _OURS
        ):
            raise ConfigurationError(f"header {name!r} cannot be set", details={"field": "headers"})
        if not value.fits_header():
            raise ConfigurationError(
                f"the value of header {name!r} holds characters no header has",
                details={"field": "headers"},
            )
        encoded.append((name.encode(), value.reveal().encode()))
    return encoded


_OURS = {
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
