"""A forked child never waits for a lock that a thread of its parent holds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from majordomo.concurrency.fork_safety import Lock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

HELD = """
import faulthandler, os, sys, threading, majordomo as md
from contextlib import ExitStack
from pathlib import Path
from majordomo.queueing import resource_group as group
from majordomo.routing.health import ChainHealth
from majordomo.testing import Faults, ScriptedChatModel
from majordomo.testing.cassette import Cassette
from majordomo.transport import lazy_transport, tls
from majordomo.transport_types import HTTPRequest

opened = lazy_transport.LazyTransport(lambda: sys.exit("never made in the parent"))
cassette, faults = Cassette(Path(sys.prefix) / "there is no such folder"), Faults([None])
scripted = ScriptedChatModel(["yes"])
registry, ledger, health, gpu = md.Registry(), md.Ledger(), ChainHealth(), group.named_group("gpu")
with ExitStack() as held:
    for lock in (opened._lock, group._lock, tls._making, registry._factory._lock, ledger._lock, health._lock):
        held.enter_context(lock)
    begun, over = threading.Event(), threading.Event()

    def hold():  # from another thread, whatever kind of lock it is
        with cassette._lock, faults._lock, scripted.script._lock:
            begun.set()
            over.wait()

    threading.Thread(target=hold, daemon=True).start()
    begun.wait()
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(10, exit=True)  # instead of waiting for ever
        opened._make = lambda: "made"
        assert opened._made() == "made"
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


def test_a_forked_child_waits_for_no_lock_of_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "no wait"), done.stderr


def test_who_forks_within_the_lock_leaves_it_in_both_processes() -> None:
    lock = Lock()
    with lock:
        lock.reset_after_fork()  # as the child does
    with lock:
        assert lock._lock.locked()
    assert not lock._lock.locked()
