"""The sync API: the async code, run in the portal's thread."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import anyio
import pytest

import majordomo as md
from majordomo import imagegen, llm
from majordomo.concurrency import portal
from tests.support import system
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    http_response,
    images_reply,
    reply_with,
)

Serve = Callable[[Handler], Loopback]


def stream_handler(peer: Peer) -> None:
    while peer.request() is not None:
        peer.begin()
        for text in ("Good ", "evening"):
            peer.chunk(delta(text))
        peer.chunk(delta({}, "stop") + DONE)
        peer.end()


def test_chat_images_and_streams_have_sync_methods(
    serve: Serve, image: Callable[[], md.ImagePart]
) -> None:
    with md.LlamaSwap(serve(reply_with(http_response(chat_completion("hi")))).url) as provider:
        assert provider.model("m").generate_sync("x").text == "hi"
    with md.LlamaSwap(serve(reply_with(http_response(images_reply(image().data)))).url) as provider:
        assert provider.image_model("m").generate_sync("x").image == image()
        with provider.image_model("m").stream_sync("x") as events:
            assert [type(event) for event in events] == [imagegen.Done]
        assert events.result is not None
    server = serve(stream_handler)
    with md.LlamaSwap(server.url) as provider:
        for _ in range(2):
            with provider.model("m").stream_sync("x") as stream:
                assert [event.text for event in stream if isinstance(event, llm.TextDelta)] == [
                    "Good ",
                    "evening",
                ]
            assert stream.reply.text == "Good evening"
    assert server.connections == 1


def test_queries_have_sync_methods(serve: Serve) -> None:
    with md.LlamaSwap(
        serve(reply_with(http_response({"data": [{"id": "a"}], "running": []}))).url
    ) as provider:
        assert [model.id for model in provider.models_sync()] == ["a"]
        assert provider.running_sync() == []
        assert provider.health_sync().ok
        provider.unload_sync("a")


def test_sync_methods_raise_the_errors_of_async_methods() -> None:
    with (
        md.LlamaSwap("http://127.0.0.1:9", retries=md.Retries(attempts=1)) as provider,
        pytest.raises(md.ConnectionFailedError),
    ):
        provider.model("m").generate_sync("x")


def test_sync_methods_work_inside_a_running_event_loop(serve: Serve) -> None:
    server = serve(reply_with(http_response(chat_completion("hi"))))

    async def main() -> str:
        with md.LlamaSwap(server.url) as provider:
            return provider.model("m").generate_sync("x").text

    assert asyncio.run(main()) == "hi"


def test_one_provider_works_in_many_threads_and_in_both_apis(serve: Serve) -> None:
    provider = md.LlamaSwap(serve(reply_with(http_response(chat_completion("hi")))).url)
    model = provider.model("m")
    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(lambda _: model.generate_sync("x").text, range(64))) == {"hi"}
    assert asyncio.run(model.generate("x")).text == "hi"
    assert sum(thread.name == "majordomo-portal" for thread in threading.enumerate()) == 1
    provider.close()
    with pytest.raises(md.ConfigurationError, match="closed"):
        model.generate_sync("x")


def test_an_exception_inside_a_sync_stream_closes_it(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.begin()
        peer.chunk(delta("x"))
        peer.wait_for_close()

    server = serve(handler)
    with md.LlamaSwap(server.url) as provider:
        with pytest.raises(ZeroDivisionError), provider.model("m").stream_sync("x") as stream:
            for _ in stream:
                _ = 1 / 0
        assert server.peers[0].closed_by_client.wait(1)
        assert stream.reply.text == "x"


def test_a_blocking_call_inside_the_portal_raises_runtime_error() -> None:
    async def inner() -> None:
        portal.run(inner)

    with pytest.raises(RuntimeError, match="use the async method"):
        portal.run(inner)


def restore_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_script(code: str, *, interrupt_when: str = "") -> tuple[int, str]:
    """Run a script in a new interpreter; return its exit status and output.

    SIGINT is sent when it prints the line `interrupt_when`.
    """
    command = [sys.executable, "-u", "-c", textwrap.dedent(code)]
    output = ""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Background jobs of a shell and their children ignore SIGINT. Windows has no such option.
        preexec_fn=None if os.name == "nt" else restore_sigint,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output += line
            if interrupt_when and line.strip() == interrupt_when:
                process.send_signal(signal.SIGINT)
        return process.wait(20), output


@system.needs_sigint
def test_keyboard_interrupt_cancels_the_call(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        if peer.number == 0:
            peer.wait_for_close()
        peer.reply(chat_completion("next"))

    server = serve(handler)
    status, output = run_script(
        f"""
        import majordomo as md, threading
        timeout = md.Timeout(queue=2)
        model = md.LlamaSwap({server.url!r}, max_concurrency=1, timeout=timeout).model("m")
        threading.Timer(0.7, print, ["waiting"]).start()
        try:
            model.generate_sync("x")
        except KeyboardInterrupt:
            # This call uses the slot that the interrupted call has released.
            print(model.generate_sync("x").text)
        """,
        interrupt_when="waiting",
    )
    assert (status, output.split()) == (0, ["waiting", "next"])


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals have no mask")
def test_keyboard_interrupt_ends_a_wait_that_signals_do_not_end() -> None:
    """On Windows, a signal never ends the wait for a lock.

    Elsewhere, it does not if another thread receives it.
    """
    status, output = run_script(
        """
        import anyio, os, signal, sys, threading
        from majordomo.concurrency import portal
        main = threading.get_ident()
        portal._WAIT_SECONDS = 0.05
        started, cancelled = threading.Event(), threading.Event()
        async def call():
            started.set()
            try:
                await anyio.sleep(30)
            finally:
                cancelled.set()
        def interrupt():
            started.wait()
            while sys._current_frames()[main].f_code is not portal.run.__code__:
                threading.Event().wait(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(5)
            os._exit(3)
        threading.Thread(target=interrupt, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            portal.run(call)
        except KeyboardInterrupt:
            print("cancelled:", cancelled.wait(5))
        """
    )
    assert (status, output.strip()) == (0, "cancelled: True")


@pytest.mark.parametrize("seconds", [-1, 0.001])
def test_a_wait_in_turns_returns_the_result_or_the_error(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(portal, "_WAIT_SECONDS", seconds)

    async def succeed() -> str:
        await anyio.sleep(0.01)
        return "done"

    async def fail() -> None:
        await anyio.sleep(0.01)
        raise TimeoutError("of the call")

    assert portal.run(succeed) == "done"
    with pytest.raises(TimeoutError, match="of the call"):
        portal.run(fail)


@pytest.mark.skipif(
    importlib.util.find_spec("resource") is None, reason="file descriptors have no limit to set"
)
def test_a_portal_that_cannot_start_raises_and_the_next_call_tries_again() -> None:
    """An event loop needs file descriptors. All are in use during the first call."""
    status, output = run_script(
        """
        import faulthandler, os, resource, sys, anyio
        import anyio.from_thread, anyio._backends._asyncio
        from majordomo.concurrency import portal
        # asyncio reports that it cannot close a loop that it could not construct.
        sys.unraisablehook = lambda unraisable: None
        # Fail instead of waiting forever.
        faulthandler.dump_traceback_later(10, exit=True)
        async def call():
            return "done"
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        used = []
        try:
            while True:
                used.append(os.dup(0))
        except OSError:
            pass
        for _ in range(2):
            try:
                portal.run(call)
            except OSError as error:
                print(type(error).__name__, portal.is_running())
        for descriptor in used:
            os.close(descriptor)
        print(portal.run(call))
        """
    )
    assert (status, output.splitlines()) == (0, ["OSError False", "OSError False", "done"])


def test_an_interrupt_before_the_wait_starts_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    started = threading.Event()

    async def call() -> None:
        started.set()

    def interrupt() -> None:
        raise KeyboardInterrupt

    portal.run(anyio.lowlevel.checkpoint)
    with monkeypatch.context() as patched:
        interrupted = SimpleNamespace(Lock=interrupt, current_thread=threading.current_thread)
        patched.setattr(portal, "threading", interrupted)
        with pytest.raises(KeyboardInterrupt):
            portal.run(call)
    # The tasks of the portal start in order.
    portal.run(anyio.lowlevel.checkpoint)
    assert not started.is_set()


def test_the_interpreter_exits_while_a_call_hangs(serve: Serve) -> None:
    server = serve(lambda peer: (peer.request(), peer.wait_for_close(20)))
    status, output = run_script(
        f"""
        import majordomo as md, threading
        model = md.LlamaSwap({server.url!r}).model("m")
        threading.Thread(target=model.generate_sync, args=["x"], daemon=True).start()
        threading.Event().wait(0.7)
        print("bye")
        """
    )
    assert (status, output.strip()) == (0, "bye")


@system.needs_fork
def test_a_forked_child_starts_its_own_portal(serve: Serve) -> None:
    server = serve(reply_with(http_response(chat_completion("hi"))))
    status, output = run_script(
        f"""
        import os, sys, warnings, majordomo as md
        # Python 3.12 warns about a fork while threads are running, which is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        def call(process):
            text = md.LlamaSwap({server.url!r}).model("m").generate_sync("x").text
            # In one write, because two processes share the pipe.
            os.write(1, f"{{process}} {{text}}\\n".encode())
        call("parent")
        child = os.fork()
        call("parent" if child else "child")
        if child == 0:
            os._exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert (status, sorted(output.split("\n"))) == (0, ["", "child hi", "parent hi", "parent hi"])


@system.needs_fork
def test_a_forked_child_does_not_wait_for_calls_of_its_parent() -> None:
    """Neither for a lock that a parent's thread holds, nor for the slots of the parent's calls."""
    status, output = run_script(
        """
        import faulthandler, os, sys, anyio, majordomo as md
        from majordomo.queueing.admission import AdmissionControl
        from majordomo.queueing.resource_group import ModelLease, ResourceGroup
        from majordomo.queueing.rate_limiter import RateLimiter
        from majordomo.settings import Rate
        from majordomo.transport_types import Deadline
        unloads = []
        async def unload():
            unloads.append("unloaded")
        gpu = ResourceGroup(unload=True)
        rate_limiter = RateLimiter(Rate(requests_per_minute=10))
        admission = AdmissionControl(1, rate_limiter=rate_limiter, resource_group=gpu)
        async def acquire(model):
            with anyio.fail_after(5):
                lease = ModelLease("box", model, unload)
                await admission.acquire(Deadline(md.Timeout()), lease=lease)
        anyio.run(acquire, "a")
        with rate_limiter._lock, gpu._lock:
            child = os.fork()
            if child == 0:
                # Fail instead of waiting forever.
                faulthandler.dump_traceback_later(10, exit=True)
                anyio.run(acquire, "b")
                os.write(1, f"{gpu.running} {unloads}".encode())
                os._exit(0)
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert (status, output) == (0, "1 ['unloaded']")
