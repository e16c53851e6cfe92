"""A forked child never waits for a lock that a thread of its parent holds."""

from __future__ import annotations

import subprocess
import sys

from majordomo.concurrency.fork_safety import Lock
from tests.support import system

pytestmark = system.needs_fork

SCRIPT = """
import faulthandler, os, sys, threading, majordomo as md
from contextlib import ExitStack
from pathlib import Path
from majordomo.queueing import resource_group as group
from majordomo.routing.health import ChainHealth
from majordomo.testing import Faults, ScriptedChatModel
from majordomo.testing.cassette import Cassette
from majordomo.transport import lazy_transport, tls
from majordomo.transport_types import HTTPRequest

lazy = lazy_transport.LazyTransport(lambda: sys.exit("constructed in the parent"))
cassette, faults = Cassette(Path(sys.prefix) / "there is no such folder"), Faults([None])
scripted = ScriptedChatModel(["yes"])
registry, ledger, health, gpu = md.Registry(), md.Ledger(), ChainHealth(), group.named_group("gpu")
with ExitStack() as stack:
    locks = (
        lazy._lock, group._lock, tls._creation_lock, registry._factory._lock, ledger._lock,
        health._lock,
    )
    for lock in locks:
        stack.enter_context(lock)
    acquired, forked = threading.Event(), threading.Event()

    # In another thread, because these may be locks of any kind.
    def hold_locks():
        with cassette._lock, faults._lock, scripted.script._lock:
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
        os.write(1, b"no wait")
        os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_does_not_wait_for_locks_of_its_parent() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=60
    )
    assert (completed.returncode, completed.stdout) == (0, "no wait"), completed.stderr


def test_a_lock_held_during_a_fork_is_released_in_both_processes() -> None:
    lock = Lock()
    with lock:
        # The child does this.
        lock.reset_after_fork()
    with lock:
        assert lock._lock.locked()
    assert not lock._lock.locked()
