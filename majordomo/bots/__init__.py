"""For authors of chat bots, on any platform: live edits, long answers as messages, upload limits, one person's share, mentions.

Nothing here knows a platform. Async parts run on asyncio and trio.
"""

from majordomo.bots.clock import Clock
from majordomo.bots.cut_points import Piece
from majordomo.bots.mentions import safe_text
from majordomo.bots.message_splitter import Change, Splitter, pieces, split
from majordomo.bots.snapshots import PictureSnapshot, Snapshot, chat_status, picture_status
from majordomo.bots.throttle_stream import Live, throttle, throttle_picture
from majordomo.bots.upload import fit_upload, fit_upload_sync
from majordomo.bots.user_queue import CallerQueue

__all__ = [
    "CallerQueue",
    "Change",
    "Clock",
    "Live",
    "PictureSnapshot",
    "Piece",
    "Snapshot",
    "Splitter",
    "chat_status",
    "fit_upload",
    "fit_upload_sync",
    "picture_status",
    "pieces",
    "safe_text",
    "split",
    "throttle",
    "throttle_picture",
]
