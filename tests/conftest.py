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
    """Return 1.5 workers per processor, because tests wait about a third of the time."""
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return processors + (processors + 1) // 2


def pytest_configure(config: pytest.Config) -> None:
    """Configure Hypothesis before importing test modules, which fixes the number of examples."""
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        _keep_bytecode(config)
    hypothesis_effort.thorough = _slow_wanted(config)
    settings.register_profile(
        "majordomo",
        parent=settings.default,
        max_examples=hypothesis_effort.max_examples(100),
        # This health check depends on the speed of the machine.
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("majordomo")


def _keep_bytecode(config: pytest.Config) -> None:
    """Write bytecode to a temporary folder when bytecode is disabled.

    Otherwise each of the many programs that tests start would compile all modules again.
    """
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
    """Select slow tests only with `-m slow`, where property tests run with more examples."""
    if _slow_wanted(config):
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker(pytest.mark.slow)
    elif "slow" not in config.getoption("markexpr"):
        deselected = [item for item in items if item.get_closest_marker("slow") is not None]
        config.hook.pytest_deselected(items=deselected)
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
    """Return `serve(handler)`, which starts a server and calls `handler(peer)` per connection."""
    running: list[Loopback] = []

    def start(handler: Handler) -> Loopback:
        running.append(Loopback(handler))
        return running[-1]

    yield start
    for server in running:
        server.close()


@pytest.fixture
def image() -> Callable[..., ImagePart]:
    """Return `image(width, height, color, kind, mode)`, which creates a plain image."""

    def make(
        width: int = 64, height: int = 48, color: str = "navy", kind: str = "PNG", mode: str = "RGB"
    ) -> ImagePart:
        buffer = io.BytesIO()
        Image.new(mode, (width, height), color).save(buffer, kind)
        return ImagePart(buffer.getvalue())

    return make
