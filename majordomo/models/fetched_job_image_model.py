"""Images from a backend with jobs whose result names files, which are fetched one by one.

The files may be at another origin. They are fetched with a GET that has neither a key nor any other
header of the provider, and only from the origins that the provider allows (see
`majordomo.transport.multi_origin`). Each is limited to `Limits.max_image_bytes`, and in time to
`FETCH_TIMEOUT` and the idle and total limits of the call; a result has at most `Limits.max_images`
of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from majordomo import imagegen
from majordomo.dialects.image_fields import parse_image
from majordomo.dialects.image_jobs import JobFiles, JobStatus
from majordomo.errors import (
    AuthenticationError,
    JobLostError,
    NoImageError,
    NotFoundError,
    PermissionDeniedError,
)
from majordomo.media.image_part import ImagePart
from majordomo.models.client import BackendCall, BackendClient
from majordomo.models.job_image_model import POLL_TIMEOUT, JobImageCodec, JobImageModel
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import HTTPRequest

FETCH_TIMEOUT = Timeout(connect=5, queue=30, first_byte=60, idle=30, total=300)


class FetchedJobImageCodec(JobImageCodec, Protocol):
    """The client side of an image dialect with jobs whose results name files."""

    def encode_result(self, job: str) -> HTTPRequest:
        """Return the request for the result of a job that has ended."""

    def decode_files(self, body: bytes, request: imagegen.Request, limits: Limits) -> JobFiles:
        """Return the images that a result names."""

    def decode_result(
        self, images: Sequence[ImagePart], files: JobFiles, request: imagegen.Request
    ) -> imagegen.Result:
        """Return the result from the fetched images."""


class FetchedJobImageModel(JobImageModel):
    """An image model of a backend with jobs whose results name files."""

    def __init__(
        self, client: BackendClient, codec: FetchedJobImageCodec, *args: Any, **settings: Any
    ) -> None:
        super().__init__(client, codec, *args, **settings)
        self._fetched_codec = codec

    async def _poll(self, job: str, request: imagegen.Request, call: BackendCall) -> JobStatus:
        status = await super()._poll(job, request, call)
        if not status.ended:
            return status
        codec = self._fetched_codec
        # The job no longer runs, so its time limit does not count: the transfers have their own.
        call.deadline.start_phase("idle")
        body = await call.query(
            codec.encode_result(job), POLL_TIMEOUT, self._limits.max_image_reply_bytes
        )
        files = codec.decode_files(body, request, self._limits)
        images = [
            image if isinstance(image, ImagePart) else await self._fetch(image, call)
            for image in files.images
        ]
        return JobStatus(result=codec.decode_result(images, files, request))

    async def _fetch(self, http_request: HTTPRequest, call: BackendCall) -> ImagePart:
        call.deadline.start_phase("idle")
        try:
            data = await call.query(
                http_request, _fetch_timeout(call.deadline.timeout), self._limits.max_image_bytes
            )
        except (
            AuthenticationError,
            JobLostError,
            NotFoundError,
            PermissionDeniedError,
        ) as error:
            # The host of the file refuses it. That says nothing about the provider's key.
            raise NoImageError(
                f"the finished image cannot be fetched: {error.message}", status=error.status
            ) from None
        return parse_image(data, self._limits)


def _fetch_timeout(timeout: Timeout) -> Timeout:
    """Return the limits of one transfer: no wait is longer than the idle limit of the call."""
    idle = math.inf if timeout.idle is None else timeout.idle
    first_byte, own_idle = FETCH_TIMEOUT.first_byte, FETCH_TIMEOUT.idle
    assert first_byte is not None
    assert own_idle is not None
    return replace(FETCH_TIMEOUT, first_byte=min(first_byte, idle), idle=min(own_idle, idle))
