from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator

import pytest
from loopback import Handler, Loopback
from PIL import Image

from majordomo import ImagePart


def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are processors: a third of the time tests wait for limits to pass."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return processors + (processors + 1) // 2


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What only makes sense in thousands has a run of its own: pytest -m slow."""
    if "slow" in config.getoption("markexpr"):
        return
    left_out = [item for item in items if item.get_closest_marker("slow") is not None]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every async test runs on both event loops."""
    return str(request.param)


@pytest.fixture
def serve() -> Iterator[Callable[[Handler], Loopback]]:
    """`serve(handler)` starts a server on a free port of this machine; `handler(peer)` is called for each connection."""
    running: list[Loopback] = []

    def start(handler: Handler) -> Loopback:
        running.append(Loopback(handler))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture
def picture() -> Callable[..., ImagePart]:
    """`picture(width, height, colour, format)` makes a plain picture."""

    def make(width: int = 64, height: int = 48, colour: str = "navy", kind: str = "PNG", mode: str = "RGB") -> ImagePart:
        held = io.BytesIO()
        Image.new(mode, (width, height), colour).save(held, kind)
        return ImagePart(held.getvalue())

    return make
