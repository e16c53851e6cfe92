"""For authors of chat bots, on any platform: live edits, long answers as messages, upload limits, one person's share, mentions.

Nothing here knows a platform. Async parts run on asyncio and trio.
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
