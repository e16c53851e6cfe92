"""HTTP transport. The only package that imports an HTTP library.

A connection pool of our own; h11 parses the head of each response, or httptools (when `[fast]` is
installed):

* `lazy_transport`: checks the settings when a provider is constructed and loads the rest at the
  first call.
* `multi_origin`: sends requests for other origins that the provider allows, without its headers.
* `http_transport`: one origin, its headers, and one pool per event loop.
* `pool`: the connections to one origin in one event loop.
* `connection`: one exchange at a time over one socket, and whether it can be reused.
* `socket_stream`: one socket; all waiting and all time limits.
* `request_head`: the head of a request as bytes.
* `response_parser`: the parser of a response, without I/O; `response_head` parses its head.
* `response`: a response while it arrives.
* `httpx_adapter`: sends the same requests over any httpx client or transport.
* `websocket` (with `[comfyui]`): websockets, for backends that report progress over one.
* `log_redaction`: removes keys from the log records of the HTTP libraries.

Nothing here retries a request, follows a redirect, keeps a cookie or reads the environment.
"""

from majordomo.transport.base_url import BaseURL
from majordomo.transport.lazy_transport import make_transport
from majordomo.transport.log_redaction import redact_in_logs

__all__ = ["BaseURL", "make_transport", "redact_in_logs"]
