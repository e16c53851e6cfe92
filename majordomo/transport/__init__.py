"""The one room that knows HTTP.

A pool of our own over the HTTP/1.1 connection of httpcore (or httpcore2, when `[fast]` is installed), in five pieces behind a
`front`: `socket` (one socket; all waiting, all time limits), `connection` (a socket that speaks HTTP and knows whether it is clean),
`pool` (one origin, one event loop), `reply` (an answer while it arrives) and `room` (origin, headers, one pool per loop). `foreign`
carries the same requests over any httpx client or transport. `websocket` (with `[comfyui]`) is beside all that: messages both ways, where
a backend tells of its work so. `logs` keeps keys out of what the libraries log. Nothing here repeats a request, follows a redirect, keeps
a cookie or reads the environment.
"""

from majordomo.transport.base_url import BaseURL
from majordomo.transport.lazy_transport import make_transport
from majordomo.transport.log_redaction import redact_in_logs

__all__ = ["BaseURL", "make_transport", "redact_in_logs"]
