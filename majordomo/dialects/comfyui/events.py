"""ComfyUI's websocket messages: the steps and unfinished images of one job.

Sources: as in `prompts`, and ComfyUI's `protocol.py`.

Messages about other jobs arrive too: the server broadcasts interrupts and everything about a job
that was queued without a client id, and older servers send progress without a job id.
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

# Message types of binary frames.
PREVIEW, PREVIEW_WITH_METADATA = 1, 4

# Must be the first message. Without it a newer server omits the job id of previews.
GREETING = encode_json(
    {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
).decode()
_RUNNING_EVENTS = (
    "execution_start",
    "execution_cached",
    "executing",
    "progress",
    "progress_state",
    "executed",
)
_END_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


class ComfyEventParser:
    """A parser of the messages about one job. Invalid messages produce no events.

    Once `ended` is True, the job's history has the outcome.
    """

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
        self._max_previews = previews
        self._limits = limits
        # Whether our job is the one that runs, as far as the messages tell.
        self._running = False
        # (finished steps, total steps) by node id.
        self._progress: dict[str, tuple[int, int]] = {}
        self._preview_count = 0
        self.ended: bool = False

    def feed(self, message: str | bytes) -> list[ImageEvent]:
        """Return the events in one websocket message."""
        return (
            self._parse_text(message) if isinstance(message, str) else self._parse_binary(message)
        )

    def _parse_text(self, message: str) -> list[ImageEvent]:
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
        if job is not None and kind in _RUNNING_EVENTS:
            self._running = job == self._job
        if job == self._job and (
            kind in _END_EVENTS or (kind == "executing" and data.get("node", "") is None)
        ):
            self.ended = True
            self._running = False
        if kind == "progress" and (job == self._job or (job is None and self._running)):
            return self._step_events(data.get("node"), data)
        if kind == "progress_state" and job == self._job:
            nodes = data.get("nodes")
            events: list[ImageEvent] = []
            for node, state in nodes.items() if isinstance(nodes, dict) else ():
                if isinstance(state, dict) and state.get("state") != "pending":
                    events += self._step_events(node, state)
            return events[-1:]
        return []

    def _step_events(self, node: Any, state: dict[str, Any]) -> list[ImageEvent]:
        """Return the step of a node, counted through all samplers of the job.

        The steps of other nodes, for example a tiled decoder, are not steps of the image.
        """
        if isinstance(node, str) and node in self._nodes and node not in self._samplers:
            return []
        value, maximum = state.get("value"), state.get("max")
        if (
            not isinstance(value, (int, float))
            or not isinstance(maximum, (int, float))
            or not 0 <= value <= maximum <= 1_000_000
        ):
            return []
        # progress_state lists every node; those that are not samplers have one step.
        if isinstance(node, str) and node not in self._samplers and maximum <= 1:
            return []
        self._progress[str(node)] = (int(value), int(maximum))
        done, total = self._total_progress()
        return [imagegen.Step(done, total)] if done else []

    def _total_progress(self) -> tuple[int, int]:
        """Return (finished steps, total steps) of all samplers that have reported."""
        return (
            sum(done for done, _ in self._progress.values()),
            sum(total for _, total in self._progress.values()),
        )

    def _parse_binary(self, message: bytes) -> list[ImageEvent]:
        if len(message) < 8 or self._preview_count >= self._max_previews:
            return []
        # The second number is the length of the metadata, or the image format of a plain preview.
        kind, second = struct.unpack_from(">II", message)
        if kind == PREVIEW and self._running:
            data = message[8:]
        elif kind == PREVIEW_WITH_METADATA and self._is_our_job(message[8 : 8 + second]):
            data = message[8 + second :]
        else:
            return []
        done, total = self._total_progress()
        # Spread the previews over the steps.
        if not total or done * (self._max_previews + 1) < total * (self._preview_count + 1):
            return []
        try:
            image: ImagePart = parse_image(data, self._limits)
        except BadResponseError:
            return []
        self._preview_count += 1
        return [imagegen.Preview(image)]

    def _is_our_job(self, metadata: bytes) -> bool:
        try:
            document = decode_object(metadata, self._limits.max_json_depth)
        except BadResponseError:
            return False
        return document.get("prompt_id") == self._job
