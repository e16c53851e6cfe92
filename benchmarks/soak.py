"""Soak test: a thousand streams at once, in rounds, a tenth of them broken by the server.

    python benchmarks/soak.py [--here] [--json FILE]

The plain and the fast install are tested, each in a process and an environment of its own, against
a server in another process. The exit status is 1 when a requirement is missed: every healthy stream
is complete, none has wrong text, every fault is a typed error with an exact prefix, no socket or
task stays, and memory grows by at most 1 MiB per round.
"""

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
FAULTS = ("cut", "reset", "garbled", "stalled", "refused")
# Words of a reply; a faulty stream has half of them.
WORDS = 12
# Time after its last word until a stalled stream is abandoned.
STALL_SECONDS = 0.3
# Allowed growth of memory per round.
MAX_GROWTH_KIB = 1024
# Rounds until pools, caches and the allocator have reached their size.
WARMUP_ROUNDS = 3
# For run_stream install.
TIMEOUT_SECONDS = 900


def words_of(number):
    """Return words that only this stream has, so that mixed-up streams are detected."""
    return [f"{number}.{index} " for index in range(WORDS)]


def kind_of(number):
    """Return the behavior of a call: every tenth is faulty, with the faults in rotation."""
    return FAULTS[number // 10 % len(FAULTS)] if number % 10 == 0 else "healthy"


# The server


def event(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return (
        b"data: "
        + json.dumps(
            {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
        ).encode()
        + b"\n\n"
    )


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


async def answer(reader, writer):
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line[15:])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            number = int(json.loads(await reader.readexactly(length))["model"])
            if not await respond(reader, writer, number):
                break
    writer.close()


async def respond(reader, writer, number):
    """Send the response; return whether the connection stays open."""
    kind = kind_of(number)
    if kind == "refused":
        body = b'{"error": {"message": "out of order"}}'
        writer.write(
            b"HTTP/1.1 500 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        return True
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    for word in words_of(number)[: WORDS if kind == "healthy" else WORDS // 2]:
        writer.write(chunk(event({"content": word})))
        await writer.drain()
        await asyncio.sleep(0)
    if kind == "healthy":
        writer.write(chunk(event({}, "stop") + b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return True
    if kind == "garbled":
        writer.write(chunk(b"data: {garbled\n\n"))
        return False
    if kind == "stalled":
        # Wait until the client closes.
        await reader.read()
    if kind == "reset":
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        writer.transport.abort()
    return False


async def serve():
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


# The client


async def run_stream(model, number, counts):
    import anyio

    import majordomo as md

    kind, complete = kind_of(number), "".join(words_of(number))
    outcome, text = "complete", ""
    sent = "".join(words_of(number)[: WORDS if kind == "healthy" else WORDS // 2])
    with anyio.CancelScope() as scope:
        try:
            async with model.stream("hi") as stream:
                async for event_ in stream:
                    text += getattr(event_, "text", "")
                    if kind == "stalled" and len(text) >= len(sent):
                        scope.deadline = anyio.current_time() + STALL_SECONDS
            text = stream.reply.text
        except md.StreamBrokenError as error:
            outcome = "broken"
            if error.partial.text != text:
                counts["wrong"] += 1
        except md.MajordomoError as error:
            outcome = (
                "refused"
                if error.status == 500
                else f"{type(error).__name__} {getattr(error, 'phase', error.code)}"
            )
        except Exception as error:
            outcome = "wrong"
            counts[f"untyped {type(error).__name__}"] += 1
    if scope.cancelled_caught:
        outcome = "given up"
    exact = {
        "healthy": text == complete,
        "refused": text == "",
        "reset": sent.startswith(text),
    }.get(kind, text == sent)
    expected = {"healthy": "complete", "refused": "refused", "stalled": "given up"}.get(
        kind, "broken"
    )
    counts[kind] += 1
    if outcome == expected and exact:
        counts[f"{kind} as expected"] += 1
    else:
        counts[f"{kind}: {outcome}"] += 1
    if outcome == "complete" and not (kind == "healthy" and exact):
        counts["wrong"] += 1
    if not complete.startswith(text):
        counts["wrong"] += 1


async def soak(url, loop, rounds, streams):
    import anyio

    import majordomo as md

    counts, memory = Counter(), []
    tasks = task_count(loop)
    before = sockets()
    provider = md.OpenAICompatible(url + "/v1", retries=md.Retries(attempts=1))
    async with provider:
        for turn in range(rounds):
            async with anyio.create_task_group() as group:
                for number in range(turn * streams, (turn + 1) * streams):
                    group.start_soon(run_stream, provider.model(str(number)), number, counts)
            memory.append(resident())
    await anyio.sleep(0.1)
    return {
        "counts": dict(counts),
        "memory": memory,
        "tasks": task_count(loop) - tasks,
        "sockets": sockets() - before,
    }


def task_count(loop):
    """Return the number of tasks of the current event loop."""
    if loop == "trio":
        import trio

        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


def sockets():
    counts = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            counts += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return counts


def resident():
    """Return the memory of the process in KiB, after freeing what can be freed."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def client(url, loop, rounds, streams):
    import anyio

    threads = threading.active_count()
    result = anyio.run(soak, url, loop, rounds, streams, backend=loop)
    result["threads"] = threading.active_count() - threads
    print(json.dumps(result))


# The run


def requirements(result):
    """Return rows of name, figure, allowed value, and whether it is met."""
    counts, memory = result["counts"], result["memory"]
    warm = memory[min(WARMUP_ROUNDS, len(memory)) - 1 :]
    growth = (warm[-1] - warm[0]) / max(1, len(warm) - 1)
    rows = []
    for kind in ("healthy", *FAULTS):
        expected_count, total = counts.get(f"{kind} as expected", 0), counts.get(kind, 0)
        rows.append(
            (
                f"{kind}, as expected",
                f"{expected_count:,} of {total:,}",
                "all",
                expected_count == total,
            )
        )
    wrong = sum(often for what, often in counts.items() if what.startswith(("wrong", "untyped")))
    rows.append(("wrong words or untyped errors", wrong, 0, not wrong))
    rows += [
        (f"{name} left", result[name], 0, result[name] <= 0)
        for name in ("sockets", "tasks", "threads")
    ]
    rows.append(
        ("KiB more after each round", round(growth), MAX_GROWTH_KIB, growth <= MAX_GROWTH_KIB)
    )
    return rows


@contextlib.contextmanager
def server():
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def installs(options):
    if options.here:
        return {"here": sys.executable}
    from environments import prepare

    return {name: str(prepare(name)) for name in ("majordomo", "majordomo-fast")}


def main():
    parser = argparse.ArgumentParser(
        description="Soak test: a thousand streams at once, a tenth of them faulty."
    )
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--loop",
        choices=["asyncio", "trio"],
        default="asyncio",
        help="trio must be installed in the interpreter (--here)",
    )
    parser.add_argument(
        "--here",
        action="store_true",
        help="use this interpreter and its majordomo instead of two environments",
    )
    parser.add_argument("--json", metavar="FILE", help="write all counts to FILE")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * options.streams + 256
    resource.setrlimit(
        resource.RLIMIT_NOFILE,
        (max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)), hard),
    )
    if options.serve:
        asyncio.run(serve())
        return 0
    if options.client:
        client(options.client, options.loop, options.rounds, options.streams)
        return 0
    results, passed = {}, True
    for name, python in installs(options).items():
        with server() as url:
            command = [python, __file__, "--client", url, "--loop", options.loop]
            command += ["--rounds", str(options.rounds), "--streams", str(options.streams)]
            process_result = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_SECONDS, check=False
            )
        if process_result.returncode:
            print(f"{name}: the client ended with {process_result.returncode}")
            return 1
        results[name] = json.loads(process_result.stdout.splitlines()[-1])
        rows = requirements(results[name])
        passed = passed and all(row[3] for row in rows)
        print(
            f"{name}, {options.loop}: {options.rounds} rounds of"
            f" {options.streams:,} streams at once"
        )
        for what, figure, allowed, fine in rows:
            print(f"  {'ok ' if fine else 'NOT'} {what:32} {figure!s:>16}   (allowed: {allowed})")
        for what, often in results[name]["counts"].items():
            if ": " in what or what.startswith(("wrong", "untyped")):
                print(f"  ! {what}: {often}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
