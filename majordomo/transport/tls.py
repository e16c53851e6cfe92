"""TLS contexts: made at the first https connection (it costs 24 ms or more), then shared by everybody with the same trust."""

from __future__ import annotations

import ssl
from functools import lru_cache

from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import ConfigurationError

_making = Lock()


def context_for(tls: str | ssl.SSLContext | None) -> ssl.SSLContext:
    """`tls` is a file of CA certificates, a context of the caller's own, or None for the public CAs. Certificates are always verified."""
    if isinstance(tls, ssl.SSLContext):
        return tls
    with _making:
        return _context(tls)


@lru_cache(maxsize=16)
def _context(ca_file: str | None) -> ssl.SSLContext:
    if ca_file is None:
        import certifi

        ca_file = certifi.where()
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError):
        raise ConfigurationError(
            "tls names no file of CA certificates", details={"field": "tls"}
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context
