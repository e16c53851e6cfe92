"""TLS contexts, created at the first https connection and shared.

Creating one takes 24 ms or more, so providers with the same CA certificates share a context.
"""

from __future__ import annotations

import ssl
from functools import lru_cache

from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import ConfigurationError

_creation_lock = Lock()


def context_for(tls: str | ssl.SSLContext | None) -> ssl.SSLContext:
    """Return the TLS context for the `tls` setting. Certificates are always verified.

    `tls` is the path of a file of CA certificates, an SSL context, or None for the public CAs.
    """
    if isinstance(tls, ssl.SSLContext):
        return tls
    with _creation_lock:
        return _create_context(tls)


@lru_cache(maxsize=16)
def _create_context(ca_file: str | None) -> ssl.SSLContext:
    if ca_file is None:
        import certifi

        ca_file = certifi.where()
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            "tls must be an SSLContext or the path of a file of CA certificates;"
            f" the file cannot be loaded: {type(error).__name__}",
            details={"field": "tls"},
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context
