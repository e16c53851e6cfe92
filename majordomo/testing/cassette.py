"""A folder of exchanges: one JSON file each, images once in a folder beside them. Written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from majordomo.concurrency.fork_safety import Lock
from majordomo.testing.body_encoding import IMAGES, Files, check_clean
from majordomo.testing.diff import difference
from majordomo.testing.errors import RecordingError, RecordingMissingError
from majordomo.testing.exchange import Exchange, dump, load
from majordomo.testing.request_matching import RecordedRequest


class Cassette:
    """Read when it is first asked, from any thread. The same request again gets the next recorded answer."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder: Path = Path(folder)
        self._lock = Lock()
        self._exchanges: list[Exchange] | None = None
        self._used: set[str] = set()
        self._renewed: set[str] = set()
        self._same: dict[str, str] = {}  # a random id of now: the one that stood in its place

    @property
    def unused(self) -> list[str]:
        """Names of the files that nobody has asked for: of requests that the program no longer makes."""
        with self._lock:
            return sorted(
                exchange.name for exchange in self._all() if exchange.name not in self._used
            )

    def find(self, asked: RecordedRequest) -> tuple[Exchange, dict[str, str]] | None:
        """The next answer recorded for this request, and which random ids of then stand for which of now; None when there is none."""
        with self._lock:
            known = {met for exchange in self._all() for met in exchange.request.ids}
            for exchange in self._all():
                if exchange.name in self._used or exchange.request.key != asked.key:
                    continue
                pairs = list(zip(asked.ids, exchange.request.ids, strict=False))
                if all(
                    len(now) == len(then) and self._may_be(now, then, known) for now, then in pairs
                ):
                    self._same.update(pairs)
                    self._used.add(exchange.name)
                    return exchange, {then: now for now, then in self._same.items() if then != now}
            return None

    def _may_be(self, now: str, then: str, known: set[str]) -> bool:
        """An id that came out of a recorded answer is itself; one made at random since stands for one of then, and always for that one."""
        if now in self._same:
            return self._same[now] == then
        return now == then if now in known else then not in self._same.values()

    def missing(self, asked: RecordedRequest) -> RecordingMissingError:
        """The error for a request that has no answer here."""
        with self._lock:
            kept = self._all()
        same = sum(exchange.request.key == asked.key for exchange in kept)
        what = f"{asked.method} {asked.path}"
        if same:
            times = "once" if same == 1 else f"{same} times"
            return RecordingMissingError(
                f"{what} was recorded {times} in {self.folder}, and is asked once more",
                code="USED_UP",
            )
        if not kept:
            return RecordingMissingError(
                f"{what} is not recorded: {self.folder} holds no recordings"
            )
        return RecordingMissingError(
            f"{what} is not recorded in {self.folder}", difference=difference(asked, kept)
        )

    def reserve(self, asked: RecordedRequest, *, anew: bool) -> Exchange:
        """A place for what comes now; the exchange is counted as used. `anew`: the first time, what was recorded before is taken away."""
        with self._lock:
            kept = self._all()
            if anew and asked.key not in self._renewed:
                for old in [exchange for exchange in kept if exchange.request.key == asked.key]:
                    (self.folder / old.name).unlink(missing_ok=True)
                    kept.remove(old)
            self._renewed.add(asked.key)
            number = 1 + max(
                (exchange.number for exchange in kept if exchange.request.key == asked.key),
                default=0,
            )
            place = Exchange(asked, number)
            self._used.add(place.name)
            kept.append(place)
            return place

    def release(self, place: Exchange) -> None:
        """Nothing came to be kept there."""
        with self._lock:
            self._all().remove(place)
            self._used.discard(place.name)

    def save(
        self, exchange: Exchange, sent: dict[str, bytes], redact: Callable[[str], str]
    ) -> None:
        """Write it, with the images that were `sent` and that came. Raises RecordingError when one of them holds a secret."""
        files = Files()
        document = dump(exchange, files.keep, redact)
        images = {**sent, **files.met}
        check_clean(images, redact)
        text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        try:
            for name, data in images.items():
                path = self.folder / IMAGES / name
                if not path.exists():
                    _write(path, data)
            _write(self.folder / exchange.name, text.encode())
        except OSError as error:
            raise RecordingError(f"cannot write into {self.folder}: {error.strerror}") from None

    def _all(self) -> list[Exchange]:
        if self._exchanges is None:
            found = [self._read(path) for path in sorted(self.folder.glob("*.json"))]
            self._exchanges = sorted(
                found, key=lambda exchange: (exchange.request.name, exchange.number)
            )
        return self._exchanges

    def _read(self, path: Path) -> Exchange:
        try:
            exchange = load(json.loads(path.read_text("utf-8")), self._image)
        except (ValueError, RecursionError):
            raise RecordingError(f"{path}: it is no JSON") from None
        except RecordingError as error:
            raise RecordingError(f"{path}: {error.message}") from None
        if exchange.name != path.name:
            raise RecordingError(
                f"{path}: its request was edited; it would be called {exchange.name}"
            )
        return exchange

    def _image(self, name: str) -> bytes:
        if Path(name).name != name:
            raise RecordingError(f"{name!r} is no name of an image")
        try:
            return (self.folder / IMAGES / name).read_bytes()
        except OSError:
            raise RecordingError(f"{IMAGES}/{name} is missing") from None


def _write(path: Path, data: bytes) -> None:
    """In one step: another process sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)  # recordings are for everybody who has the repository
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
