"""The blocking color: the same code through one thread."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import majordomo as md
from majordomo import imagegen, llm
from majordomo.concurrency import portal
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    always,
    chat,
    delta,
    images_reply,
    whole,
)

Serve = Callable[[Handler], Loopback]


def streamed(peer: Peer) -> None:
    while peer.request() is not None:
        peer.begin()
        for word in ("Good ", "evening"):
            peer.chunk(delta(word))
        peer.chunk(delta({}, "stop") + DONE)
        peer.end()


def test_a_call_an_image_and_a_stream(serve: Serve, image: Callable[[], md.ImagePart]) -> None:
    with md.LlamaSwap(serve(always(whole(chat("hi")))).url) as provider:
        assert provider.model("m").generate_sync("x").text == "hi"
    with md.LlamaSwap(serve(always(whole(images_reply(image().data)))).url) as provider:
        assert provider.image_model("m").generate_sync("x").image == image()
        with provider.image_model("m").stream_sync("x") as events:
            assert [type(event) for event in events] == [imagegen.Done]
        assert events.result is not None
    server = serve(streamed)
    with md.LlamaSwap(server.url) as provider:
        for _ in range(2):
            with provider.model("m").stream_sync("x") as stream:
                assert [e.text for e in stream if isinstance(e, llm.TextDelta)] == [
                    "Good ",
                    "evening",
                ]
            assert stream.reply.text == "Good evening"
    assert server.connections == 1


def test_questions_have_a_blocking_form(serve: Serve) -> None:
    with md.LlamaSwap(serve(always(whole({"data": [{"id": "a"}], "running": []}))).url) as provider:
        assert [model.id for model in provider.models_sync()] == ["a"]
        assert provider.running_sync() == []
        assert provider.health_sync().ok
        provider.unload_sync("a")


def test_errors_are_the_same() -> None:
    with (
        md.LlamaSwap("http://127.0.0.1:9", retries=md.Retries(attempts=1)) as provider,
        pytest.raises(md.ConnectionFailedError),
    ):
        provider.model("m").generate_sync("x")


def test_it_works_within_a_running_loop(serve: Serve) -> None:
    server = serve(always(whole(chat("hi"))))

    async def main() -> str:
        with md.LlamaSwap(server.url) as provider:
            return provider.model("m").generate_sync("x").text

    assert asyncio.run(main()) == "hi"


def test_one_provider_serves_many_threads_and_both_colors(serve: Serve) -> None:
    provider = md.LlamaSwap(serve(always(whole(chat("hi")))).url)
    model = provider.model("m")
    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(lambda _: model.generate_sync("x").text, range(64))) == {"hi"}
    assert asyncio.run(model.generate("x")).text == "hi"
    assert sum(thread.name == "majordomo-portal" for thread in threading.enumerate()) == 1
    provider.close()
    with pytest.raises(md.ConfigurationError, match="closed"):
        model.generate_sync("x")


def test_leaving_a_stream_early_closes_it(serve: Serve) -> None:
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


def test_a_blocking_call_inside_the_portal_says_so_instead_of_hanging() -> None:
    async def inner() -> None:
        portal.run(inner)

    with pytest.raises(RuntimeError, match="use the async one"):
        portal.run(inner)


def run(code: str, *, interrupt_when: str = "") -> tuple[int, str]:
    """Exit status and output of a fresh interpreter; SIGINT is sent when it prints that line."""
    command = [sys.executable, "-u", "-c", textwrap.dedent(code)]
    shown = ""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            shown += line
            if interrupt_when and line.strip() == interrupt_when:
                process.send_signal(signal.SIGINT)
        return process.wait(20), shown


def test_keyboard_interrupt_cancels_the_call(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        if peer.number == 0:
            peer.wait_for_close()
        peer.reply(chat("next"))

    server = serve(handler)
    status, shown = run(
        f"""
        import majordomo as md, threading
        model = md.LlamaSwap({server.url!r}, max_concurrency=1, timeout=md.Timeout(queue=2)).model("m")
        threading.Timer(0.7, print, ["waiting"]).start()
        try:
            model.generate_sync("x")
        except KeyboardInterrupt:
            print(model.generate_sync("x").text)  # in the place that the interrupted call has left
        """,
        interrupt_when="waiting",
    )
    assert (status, shown.split()) == (0, ["waiting", "next"])


def test_the_interpreter_ends_while_a_call_hangs(serve: Serve) -> None:
    server = serve(lambda peer: (peer.request(), peer.wait_for_close(20)))
    status, shown = run(
        f"""
        import majordomo as md, threading
        model = md.LlamaSwap({server.url!r}).model("m")
        threading.Thread(target=model.generate_sync, args=["x"], daemon=True).start()
        threading.Event().wait(0.7)
        print("bye")
        """
    )
    assert (status, shown.strip()) == (0, "bye")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_a_thread_of_its_own(serve: Serve) -> None:
    server = serve(always(whole(chat("hi"))))
    status, shown = run(
        f"""
        import os, sys, warnings, majordomo as md
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork beside a thread: that is what is tried here
        def say(who):  # in one write: two processes share the pipe
            os.write(1, f"{{who}} {{md.LlamaSwap({server.url!r}).model('m').generate_sync('x').text}}\\n".encode())
        say("parent")
        child = os.fork()
        say("parent" if child else "child")
        if child == 0:
            os._exit(0)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert (status, sorted(shown.split("\n"))) == (0, ["", "child hi", "parent hi", "parent hi"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_waits_for_no_call_of_its_parent() -> None:
    """Not for a lock that one of the parent's threads held, nor with a model that only the parent uses."""
    status, shown = run(
        """
        import faulthandler, os, sys, anyio, majordomo as md
        from majordomo.queueing.admission import AdmissionControl
        from majordomo.queueing.resource_group import ModelLease, ResourceGroup
        from majordomo.queueing.rate_limiter import RateLimiter
        from majordomo.settings import Rate
        from majordomo.transport_types import Deadline
        asked = []
        async def release():
            asked.append("unloaded")
        gpu = ResourceGroup(unload=True)
        rate_limiter = RateLimiter(Rate(requests_per_minute=10))
        admission = AdmissionControl(1, rate_limiter=rate_limiter, resource_group=gpu)
        async def enter(model):
            with anyio.fail_after(5):
                await admission.acquire(Deadline(md.Timeout()), lease=ModelLease(1, model, release))
        anyio.run(enter, "a")
        with rate_limiter._lock, gpu._lock:
            child = os.fork()
            if child == 0:
                faulthandler.dump_traceback_later(10, exit=True)  # instead of waiting for ever
                anyio.run(enter, "b")
                os.write(1, f"{gpu.running} {asked}".encode())
                os._exit(0)
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert (status, shown) == (0, "1 ['unloaded']")
