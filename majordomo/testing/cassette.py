"""A folder of recorded exchanges.

Each exchange is one JSON file. Images are stored once each in a subfolder. A file is written
completely or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from majordomo.concurrency.fork_safety import Lock
from majordomo.media.atomic_files import make_folder, remove_file, write_file
from majordomo.media.filenames import name_problem
from majordomo.testing.body_encoding import IMAGES, ImageStore, check_images
from majordomo.testing.diff import difference
from majordomo.testing.errors import RecordingError, RecordingMissingError
from majordomo.testing.exchange import Exchange, dump, load
from majordomo.testing.request_matching import RecordedRequest


class Cassette:
    """The exchanges of one folder, thread-safe. The folder is read on first use.

    Repeating a request gives the next recorded response to it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder: Path = Path(folder)
        self._lock = Lock()
        self._exchanges: list[Exchange] | None = None
        self._used: set[str] = set()
        self._replaced_keys: set[str] = set()
        # Random ids of this run, and the recorded id that each corresponds to.
        self._recorded_ids: dict[str, str] = {}

    @property
    def unused(self) -> list[str]:
        """Names of files that no request has used: recordings the program no longer needs."""
        with self._lock:
            return sorted(
                exchange.name for exchange in self._all() if exchange.name not in self._used
            )

    def find(self, request: RecordedRequest) -> tuple[Exchange, dict[str, str]] | None:
        """Return the next exchange recorded for a request, and mark it as used.

        Returns:
            The exchange, and a map from recorded random ids to those of this run; None when no
            unused exchange matches.
        """
        with self._lock:
            known_ids = {id for exchange in self._all() for id in exchange.request.ids}
            for exchange in self._all():
                if exchange.name in self._used or exchange.request.key != request.key:
                    continue
                pairs = list(zip(request.ids, exchange.request.ids, strict=False))
                if all(
                    len(current) == len(recorded) and self._ids_match(current, recorded, known_ids)
                    for current, recorded in pairs
                ):
                    self._recorded_ids.update(pairs)
                    self._used.add(exchange.name)
                    return exchange, {
                        recorded: current
                        for current, recorded in self._recorded_ids.items()
                        if recorded != current
                    }
            return None

    def _ids_match(self, current: str, recorded: str, known_ids: set[str]) -> bool:
        """Return whether an id of this run may correspond to a recorded id.

        An id from a recorded response corresponds to itself. A random id made in this run
        corresponds to one recorded id, always the same one.
        """
        if current in self._recorded_ids:
            return self._recorded_ids[current] == recorded
        if current in known_ids:
            return current == recorded
        return recorded not in self._recorded_ids.values()

    def missing(self, request: RecordedRequest) -> RecordingMissingError:
        """Return the error for a request without a recorded response."""
        with self._lock:
            exchanges = self._all()
        count = sum(exchange.request.key == request.key for exchange in exchanges)
        target = f"{request.method} {request.path}"
        if count:
            times = "once" if count == 1 else f"{count} times"
            return RecordingMissingError(
                f"{target} was recorded {times} in {self.folder}, but was sent once more; "
                "record it again if the program now repeats it",
                code="USED_UP",
            )
        if not exchanges:
            return RecordingMissingError(
                f"{target} is not recorded: {self.folder} contains no recordings"
            )
        return RecordingMissingError(
            f"{target} is not recorded in {self.folder}", difference=difference(request, exchanges)
        )

    def reserve(self, request: RecordedRequest, *, replace_existing: bool) -> Exchange:
        """Add an empty exchange, marked as used, for a response that is about to arrive.

        Args:
            request: The request that is being sent.
            replace_existing: Delete the existing recordings of an equal request first, once per
                cassette.
        """
        with self._lock:
            exchanges = self._all()
            if replace_existing and request.key not in self._replaced_keys:
                for old in [one for one in exchanges if one.request.key == request.key]:
                    remove_file(self.folder / old.name)
                    exchanges.remove(old)
            self._replaced_keys.add(request.key)
            number = 1 + max(
                (one.number for one in exchanges if one.request.key == request.key), default=0
            )
            reserved = Exchange(request, number)
            self._used.add(reserved.name)
            exchanges.append(reserved)
            return reserved

    def release(self, reserved: Exchange) -> None:
        """Remove a reserved exchange that will not be recorded."""
        with self._lock:
            self._all().remove(reserved)
            self._used.discard(reserved.name)

    def save(
        self, exchange: Exchange, request_images: dict[str, bytes], redact: Callable[[str], str]
    ) -> None:
        """Write an exchange, its `request_images`, and the images of the response.

        Raises:
            RecordingError: An image contains a secret (SECRET_IN_IMAGE), or a file cannot be
                written.
        """
        store = ImageStore()
        document = dump(exchange, store.add, redact)
        images = {**request_images, **store.images_by_name}
        check_images(images, redact)
        text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        try:
            for name, data in images.items():
                path = self.folder / IMAGES / name
                make_folder(path.parent)
                if not path.exists():
                    write_file(path, data, overwrite=True)
            make_folder(self.folder)
            write_file(self.folder / exchange.name, text.encode(), overwrite=True)
        except OSError as error:
            raise RecordingError(f"cannot write into {self.folder}: {error.strerror}") from None

    def _all(self) -> list[Exchange]:
        if self._exchanges is None:
            exchanges = [self._read(path) for path in sorted(self.folder.glob("*.json"))]
            self._exchanges = sorted(
                exchanges, key=lambda exchange: (exchange.request.name, exchange.number)
            )
        return self._exchanges

    def _read(self, path: Path) -> Exchange:
        try:
            exchange = load(json.loads(path.read_text("utf-8")), self._read_image)
        except (ValueError, RecursionError):
            raise RecordingError(f"{path}: not valid JSON") from None
        except RecordingError as error:
            raise RecordingError(f"{path}: {error.message}") from None
        if exchange.name != path.name:
            raise RecordingError(
                f"{path}: the request was edited; rename the file to {exchange.name}, "
                "or record it again"
            )
        return exchange

    def _read_image(self, name: str) -> bytes:
        # On Windows, a reserved name would read a device, such as the keyboard.
        if name_problem(name):
            raise RecordingError(
                f"image must be a file name that is valid on every system; got {name!r}"
            )
        try:
            return (self.folder / IMAGES / name).read_bytes()
        except OSError:
            raise RecordingError(f"{IMAGES}/{name} is missing") from None
