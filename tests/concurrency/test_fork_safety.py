"""A forked child never waits for a lock that a thread of its parent holds."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

import majordomo
from majordomo.concurrency import fork_safety
from majordomo.concurrency.fork_safety import Lock
from tests.support import system

SCRIPT = """
import faulthandler, os, sys, threading, majordomo as md
from contextlib import ExitStack
from pathlib import Path
from majordomo.concurrency import portal, worker_threads
from majordomo.media.image_limits import ImageSupport
from majordomo.models.image_conversion import ImageConverter
from majordomo.queueing import resource_group as group
from majordomo.queueing.rate_limiter import RateLimiter
from majordomo.routing.health import ChainHealth
from majordomo.studio import JobStore
from majordomo.testing import Faults, Pause, ScriptedChatModel
from majordomo.testing.cassette import Cassette
from majordomo.transport import lazy_transport, tls
from majordomo.transport_types import Deadline, HTTPRequest

lazy = lazy_transport.LazyTransport(lambda: sys.exit("constructed in the parent"))
cassette, faults = Cassette(Path(sys.prefix) / "there is no such folder"), Faults([None])
scripted = ScriptedChatModel(["yes"])
registry, ledger, health, gpu = md.Registry(), md.Ledger(), ChainHealth(), group.named_group("gpu")
rate_limiter, pause = RateLimiter(md.Rate(requests_per_minute=6000)), Pause()
converter, store = ImageConverter(ImageSupport(), md.Limits()), JobStore(sys.argv[1])
with ExitStack() as stack:
    locks = (
        lazy._lock, group._lock, tls._creation_lock, registry._factory._lock, ledger._lock,
        health._lock, gpu._lock, gpu._queue._lock, rate_limiter._lock, converter._lock,
        store._lock, portal._lock, worker_threads._lock,
    )
    for lock in locks:
        stack.enter_context(lock)
    acquired, forked = threading.Event(), threading.Event()

    # In another thread, because these may be locks of any kind.
    def hold_locks():
        with cassette._lock, faults._lock, scripted.script._lock, pause._reached._lock:
            acquired.set()
            forked.wait()

    threading.Thread(target=hold_locks, daemon=True).start()
    acquired.wait()
    child = os.fork()
    if child == 0:
        # Fail instead of waiting forever.
        faulthandler.dump_traceback_later(10, exit=True)
        lazy._construct = lambda: "constructed"
        assert lazy._get_transport() == "constructed"
        assert group.named_group("gpu") is gpu
        assert tls.context_for(None) is tls.context_for(None)
        assert registry.model("offline/rules").provider == "offline"
        assert ledger.total().calls == 0
        assert health.status("m", "chat").state == "closed"
        assert cassette.unused == []
        assert faults.next(HTTPRequest("GET", "/")) is None
        assert scripted.generate_sync("hi").text == "yes"
        portal.run(lambda: gpu.acquire(Deadline(md.Timeout(queue=5))))
        portal.run(lambda: rate_limiter.acquire(Deadline(md.Timeout(queue=5))))
        assert portal.run(lambda: worker_threads.in_thread(lambda: "ran")) == "ran"
        converter._store(b"", md.testing.plain_image(8, 8))
        assert store.ids() == ()
        pause._reached.set()
        os.write(1, b"no wait")
        os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@system.needs_fork
def test_a_forked_child_does_not_wait_for_locks_of_its_parent(tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (completed.returncode, completed.stdout) == (0, "no wait"), completed.stderr


@pytest.fixture
def become_a_child(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Do what a forked child does, with the locks that the test creates."""
    monkeypatch.setattr(fork_safety, "_locks", weakref.WeakSet())
    return fork_safety._after_fork


def test_a_lock_held_during_a_fork_is_released_in_both_processes(
    become_a_child: Callable[[], None],
) -> None:
    lock = Lock()
    with lock:
        become_a_child()
    with lock:
        assert lock._lock.locked()
    assert not lock._lock.locked()


class Counter:
    """An object with a lock that protects a number."""

    def __init__(self) -> None:
        self.number = 0
        self.lock = Lock(self.reset)

    def reset(self) -> None:
        with self.lock:
            self.number = 0


def test_a_forked_child_resets_what_a_lock_protects(become_a_child: Callable[[], None]) -> None:
    first, second = Counter(), Counter()
    first.number = second.number = 5
    with first.lock:
        become_a_child()
    assert (first.number, second.number) == (0, 0)


def test_a_lock_does_not_keep_the_object_alive_that_it_resets() -> None:
    gc.disable()
    try:
        counter = Counter()
        reference = weakref.ref(counter)
        del counter
        assert reference() is None, "there is no reference cycle either"
    finally:
        gc.enable()


def test_every_lock_of_the_package_is_safe_in_a_forked_child() -> None:
    folder = Path(majordomo.__file__).parent
    other_styles = re.compile(
        r"threading\.R?Lock\(|threading\.(Condition|Semaphore)\(|register_at_fork|multiprocessing"
    )
    found = [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*.py"))
        if other_styles.search(path.read_text(encoding="utf-8"))
    ]
    # The lock in the portal belongs to one call, and no other thread of the process takes it.
    assert found == ["concurrency/fork_safety.py", "concurrency/portal.py"]


WITHOUT_FORK = """
import os
for name in ("register_at_fork", "fork"):
    if hasattr(os, name):
        delattr(os, name)
import majordomo as md
from majordomo.imaging import in_thread

gpu = md.ResourceGroup("box")
offline = md.Offline(gpu=gpu, max_concurrency=1)
assert offline.image_model("renderer").generate_sync("a fox", size="64x64").image.width == 64
assert md.concurrency.portal.run(lambda: in_thread(lambda: "ran")) == "ran"
assert (gpu.running, gpu.waiting) == (0, 0)
print("works", end="")
"""


def test_locks_work_where_processes_cannot_fork() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", WITHOUT_FORK],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (completed.returncode, completed.stdout) == (0, "works"), completed.stderr
