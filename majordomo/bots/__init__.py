"""Building blocks for chat bots on any platform.

* `throttle` and `throttle_image` turn a stream into live edits of a message.
* `split` and `Splitter` turn long answers into several messages.
* `fit_upload` keeps images within the upload limit of a platform.
* `UserQueue` limits how much one user can request, and serves users in turn.
* `safe_text` neutralizes mentions.

Nothing here depends on a platform. Async functions run on asyncio and trio.
"""

from majordomo.bots.clock import Clock
from majordomo.bots.cut_points import TextPiece
from majordomo.bots.mentions import safe_text
from majordomo.bots.message_splitter import Change, Splitter, pieces, split
from majordomo.bots.snapshots import ImageSnapshot, Snapshot, chat_status, image_status
from majordomo.bots.throttle_stream import ThrottledStream, throttle, throttle_image
from majordomo.bots.upload import fit_upload, fit_upload_sync
from majordomo.bots.user_queue import UserQueue

__all__ = [
    "Change",
    "Clock",
    "ImageSnapshot",
    "Snapshot",
    "Splitter",
    "TextPiece",
    "ThrottledStream",
    "UserQueue",
    "chat_status",
    "fit_upload",
    "fit_upload_sync",
    "image_status",
    "pieces",
    "safe_text",
    "split",
    "throttle",
    "throttle_image",
]
