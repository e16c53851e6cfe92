"""A thousand streams at once, round after round, a tenth of them from a server that misbehaves: what is wrong, and what is left behind.

    python benchmarks/soak.py [--here] [--json FILE]

Both carriers are tried, each in a process and an environment of its own, against a server in another process. Exits with 1 when a figure is
missed: every healthy stream whole, none wrong, every fault a typed error with an exact prefix, no socket or task left, and at most 1 MiB
more memory after each thousand.
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
WORDS = 12  # of an answer; a faulty one says half of them
PATIENCE = 0.3  # seconds after its last word until a caller gives up on a stalled stream
GROWTH = 1024  # KiB in a round
SETTLED = 3  # rounds until pools, caches and the allocator have what they keep
LONGEST = 900  # seconds for one carrier


def words_of(number):
    """Nobody else's words: a stream that got another one's is noticed."""
    return [f"{number}.{index} " for index in range(WORDS)]


def kind_of(number):
    """Every tenth call is faulty, the faults in turn."""
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
            if not await speak(reader, writer, number):
                break
    writer.close()


async def speak(reader, writer, number):
    """Whether the connection goes on."""
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
        await reader.read()  # until the client has gone
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


async def one(model, number, found):
    import anyio

    import majordomo as md

    kind, whole = kind_of(number), "".join(words_of(number))
    outcome, text = "whole", ""
    said = "".join(words_of(number)[: WORDS if kind == "healthy" else WORDS // 2])
    with anyio.CancelScope() as patience:
        try:
            async with model.stream("hi") as stream:
                async for told in stream:
                    text += getattr(told, "text", "")
                    if kind == "stalled" and len(text) >= len(said):
                        patience.deadline = anyio.current_time() + PATIENCE
            text = stream.reply.text
        except md.StreamBrokenError as error:
            outcome = "broken"
            if error.partial.text != text:
                found["wrong"] += 1
        except md.MajordomoError as error:
            outcome = (
                "refused"
                if error.status == 500
                else f"{type(error).__name__} {getattr(error, 'phase', error.code)}"
            )
        except Exception as error:
            outcome = "wrong"
            found[f"untyped {type(error).__name__}"] += 1
    if patience.cancelled_caught:
        outcome = "given up"
    exact = {"healthy": text == whole, "refused": text == "", "reset": said.startswith(text)}.get(
        kind, text == said
    )
    expected = {"healthy": "whole", "refused": "refused", "stalled": "given up"}.get(kind, "broken")
    found[kind] += 1
    if outcome == expected and exact:
        found[f"{kind} as it should"] += 1
    else:
        found[f"{kind}: {outcome}"] += 1
    if outcome == "whole" and not (kind == "healthy" and exact):
        found["wrong"] += 1
    if not whole.startswith(text):
        found["wrong"] += 1


async def soak(url, loop, rounds, streams):
    import anyio

    import majordomo as md

    found, memory = Counter(), []
    tasks = living(loop)
    before = sockets()
    provider = md.OpenAICompatible(url + "/v1", retries=md.Retries(attempts=1))
    async with provider:
        for turn in range(rounds):
            async with anyio.create_task_group() as group:
                for number in range(turn * streams, (turn + 1) * streams):
                    group.start_soon(one, provider.model(str(number)), number, found)
            memory.append(resident())
    await anyio.sleep(0.1)
    return {
        "counts": dict(found),
        "memory": memory,
        "tasks": living(loop) - tasks,
        "sockets": sockets() - before,
    }


def living(loop):
    """Tasks of the event loop that runs."""
    if loop == "trio":
        import trio

        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


def sockets():
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found


def resident():
    """KiB of the process, after what is free was given back."""
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


def judged(result):
    """Row by row: what it is, the figure, what is allowed, whether it is kept."""
    counts, memory = result["counts"], result["memory"]
    settled = memory[min(SETTLED, len(memory)) - 1 :]
    growth = (settled[-1] - settled[0]) / max(1, len(settled) - 1)
    rows = []
    for kind in ("healthy", *FAULTS):
        right, all_of_them = counts.get(f"{kind} as it should", 0), counts.get(kind, 0)
        rows.append(
            (
                f"{kind}, as it should be",
                f"{right:,} of {all_of_them:,}",
                "all",
                right == all_of_them,
            )
        )
    wrong = sum(often for what, often in counts.items() if what.startswith(("wrong", "untyped")))
    rows.append(("wrong words or untyped errors", wrong, 0, not wrong))
    rows += [
        (f"{name} left", result[name], 0, result[name] <= 0)
        for name in ("sockets", "tasks", "threads")
    ]
    rows.append(("KiB more after each round", round(growth), GROWTH, growth <= GROWTH))
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


def carriers(options):
    if options.here:
        return {"here": sys.executable}
    from environments import prepare

    return {name: str(prepare(name)) for name in ("majordomo", "majordomo-fast")}


def main():
    parser = argparse.ArgumentParser(
        description="A thousand streams at once, a tenth of them faulty: what goes wrong, and what is left."
    )
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--loop",
        choices=["asyncio", "trio"],
        default="asyncio",
        help="trio has to be installed where it runs (--here)",
    )
    parser.add_argument(
        "--here",
        action="store_true",
        help="this interpreter and its majordomo, instead of two environments of their own",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything that was counted there")
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
    results, kept = {}, True
    for name, python in carriers(options).items():
        with server() as url:
            command = [python, __file__, "--client", url, "--loop", options.loop]
            command += ["--rounds", str(options.rounds), "--streams", str(options.streams)]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, timeout=LONGEST, check=False
            )
        if done.returncode:
            print(f"{name}: the client ended with {done.returncode}")
            return 1
        results[name] = json.loads(done.stdout.splitlines()[-1])
        rows = judged(results[name])
        kept = kept and all(row[3] for row in rows)
        print(
            f"{name}, {options.loop}: {options.rounds} rounds of {options.streams:,} streams at once"
        )
        for what, figure, allowed, fine in rows:
            print(f"  {'ok ' if fine else 'NOT'} {what:32} {figure!s:>16}   (allowed: {allowed})")
        for what, often in results[name]["counts"].items():
            if ": " in what or what.startswith(("wrong", "untyped")):
                print(f"  ! {what}: {often}")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
