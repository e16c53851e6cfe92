"""What ComfyUI's websocket tells, frame by frame: steps and unfinished images of one job. Sources: as `comfyui`, and `protocol.py`.

Frames of others come too: an interrupt goes to everybody, so does all about a job that was queued without a client id, and older
servers send progress without saying whose it is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from majordomo import imagegen
from majordomo.dialects.image_fields import parse_image
from majordomo.errors import BadResponseError
from majordomo.framing.json import decode_object, encode_json
from majordomo.imagegen import ImageEvent
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits

PREVIEW, PREVIEW_WITH_METADATA = 1, 4
# The first message, else a newer server leaves out whose preview it is
GREETING = encode_json(
    {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
).decode()
_BEGUN = (
    "execution_start",
    "execution_cached",
    "executing",
    "progress",
    "progress_state",
    "executed",
)
_ENDED = ("execution_success", "execution_error", "execution_interrupted")


class ComfyEventParser:
    """Follows one job. `ended`: its history tells the rest. Frames that cannot be read tell nothing."""

    def __init__(
        self,
        job: str,
        nodes: Sequence[str],
        samplers: frozenset[str],
        previews: int,
        limits: Limits,
    ) -> None:
        self._job = job
        self._nodes = frozenset(nodes)
        self._samplers = samplers
        self._previews = previews
        self._limits = limits
        self._ours = False  # whether it is our job that runs, as far as the frames tell
        self._progress: dict[str, tuple[int, int]] = {}
        self._shown = 0
        self.ended: bool = False

    def feed(self, message: str | bytes) -> list[ImageEvent]:
        return self._text(message) if isinstance(message, str) else self._binary(message)

    def _text(self, message: str) -> list[ImageEvent]:
        try:
            document = decode_object(
                message.encode("utf-8", "replace"), self._limits.max_json_depth
            )
        except BadResponseError:
            return []
        kind, data = document.get("type"), document.get("data")
        if not isinstance(kind, str) or not isinstance(data, dict):
            return []
        job = data.get("prompt_id")
        if job is not None and kind in _BEGUN:
            self._ours = job == self._job
        if job == self._job and (
            kind in _ENDED or (kind == "executing" and data.get("node", "") is None)
        ):
            self.ended = True
            self._ours = False
        if kind == "progress" and (job == self._job or (job is None and self._ours)):
            return self._stepped(data.get("node"), data)
        if kind == "progress_state" and job == self._job:
            nodes = data.get("nodes")
            told: list[ImageEvent] = []
            for node, state in nodes.items() if isinstance(nodes, dict) else ():
                if isinstance(state, dict) and state.get("state") != "pending":
                    told += self._stepped(node, state)
            return told[-1:]
        return []

    def _stepped(self, node: Any, state: dict[str, Any]) -> list[ImageEvent]:
        """Steps of several samplers count through. Other nodes, a decoder of tiles for one, have steps that are not the image's."""
        if isinstance(node, str) and node in self._nodes and node not in self._samplers:
            return []
        value, most = state.get("value"), state.get("max")
        if (
            not isinstance(value, (int, float))
            or not isinstance(most, (int, float))
            or not 0 <= value <= most <= 1_000_000
        ):
            return []
        if (
            isinstance(node, str) and node not in self._samplers and most <= 1
        ):  # progress_state lists every node, done in one step
            return []
        self._progress[str(node)] = (int(value), int(most))
        done, total = (sum(found) for found in zip(*self._progress.values(), strict=True))
        return [imagegen.Step(done, total)] if done else []

    def _binary(self, message: bytes) -> list[ImageEvent]:
        if len(message) < 8 or self._shown >= self._previews:
            return []
        kind, second = struct.unpack_from(">II", message)
        if kind == PREVIEW and self._ours:
            image = message[8:]
        elif kind == PREVIEW_WITH_METADATA and self._is_ours(message[8 : 8 + second]):
            image = message[8 + second :]
        else:
            return []
        done, total = (
            (sum(found) for found in zip(*self._progress.values(), strict=True))
            if self._progress
            else (0, 0)
        )
        # at most `previews` of them, spread over the steps
        if not total or done * (self._previews + 1) < total * (self._shown + 1):
            return []
        try:
            shown: ImagePart = parse_image(image, self._limits)
        except BadResponseError:
            return []
        self._shown += 1
        return [imagegen.Preview(shown)]

    def _is_ours(self, metadata: bytes) -> bool:
        try:
            return (
                decode_object(metadata, self._limits.max_json_depth).get("prompt_id") == self._job
            )
        except BadResponseError:
            return False
