from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from majordomo import ImagePart
from tests.support import hypothesis_effort, optional_suites
from tests.support.loopback import Handler, Loopback


def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are processors: a third of the time tests wait for limits to pass."""
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return processors + (processors + 1) // 2


def pytest_configure(config: pytest.Config) -> None:
    """Before a test is read: its number of tries is fixed when it is."""
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        _keep_bytecode(config)
    hypothesis_effort.thorough = _slow_wanted(config)
    settings.register_profile(
        "majordomo",
        parent=settings.default,
        max_examples=hypothesis_effort.tries(100),
        suppress_health_check=[HealthCheck.too_slow],
    )  # it goes by the clock
    settings.load_profile("majordomo")


def _keep_bytecode(config: pytest.Config) -> None:
    """Who wants no bytecode beside the sources wants none left; but programs that tests start by the dozen would each compile everything."""
    folder = tempfile.TemporaryDirectory(prefix="majordomo-bytecode-")
    config.add_cleanup(folder.cleanup)
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    patch.setenv("PYTHONPYCACHEPREFIX", folder.name)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the tests of independent clients that are not installed."""
    return True if optional_suites.lacks_peer(collection_path.name) else None


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print why a selected suite did not run.

    This file prints it because with xdist the controlling process loads only this conftest.
    """
    for line in optional_suites.missing_tools(config):
        terminalreporter.write_line(line)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What only makes sense in thousands has a run of its own: pytest -m slow. Properties are tried more often there."""
    if _slow_wanted(config):
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker(pytest.mark.slow)
    elif "slow" not in config.getoption("markexpr"):
        left_out = [item for item in items if item.get_closest_marker("slow") is not None]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.get_closest_marker("slow") is None]


def _slow_wanted(config: pytest.Config) -> bool:
    expression = config.getoption("markexpr")
    return "slow" in expression and "not slow" not in expression


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
def image() -> Callable[..., ImagePart]:
    """`image(width, height, color, format)` makes a plain image."""

    def make(
        width: int = 64, height: int = 48, color: str = "navy", kind: str = "PNG", mode: str = "RGB"
    ) -> ImagePart:
        held = io.BytesIO()
        Image.new(mode, (width, height), color).save(held, kind)
        return ImagePart(held.getvalue())

    return make
