"""Measure majordomo with a growing number of messages, providers, queued users or streams.

Prints one table as JSON.
"""

import asyncio
import gc
import json
import sys
import time
import tracemalloc
from itertools import cycle

from agreed import ANSWER, HELD_DELTAS
from measure import _status


def _resident():
    gc.collect()
    return _status("VmRSS:")


async def _cpu(work, repeat=1):
    gc.collect()
    started = time.process_time()
    for _ in range(repeat):
        await work()
    return (time.process_time() - started) / repeat


async def conversation(md, url, sizes=(10, 50, 100, 200)):
    """Compare with the time that json.dumps takes for the same messages as dictionaries."""
    rows = []
    async with md.OpenAICompatible(url + "/v1") as provider:
        model = provider.model("m")
        for size in sizes:
            texts = [f"This is message {number} of a long evening. " * 4 for number in range(size)]
            messages = [
                md.assistant(text) if number % 2 else md.user(text)
                for number, text in enumerate(texts)
            ]
            plain = [
                {"role": "assistant" if number % 2 else "user", "content": text}
                for number, text in enumerate(texts)
            ]

            async def ask(messages=messages):
                assert (await model.generate([*messages, md.user("go on")])).text == ANSWER

            async def necessary(plain=plain):
                json.dumps({"model": "m", "messages": plain}).encode()

            await _cpu(ask, 20)
            call, least = await _cpu(ask, 100) * 1e6, await _cpu(necessary, 100) * 1e6
            rows.append(
                [
                    size,
                    call,
                    least,
                    call - least,
                    (call - least - (rows[0][3] if rows else 0)) / size if rows else 0.0,
                ]
            )
    columns = [
        "us per call",
        "json.dumps",
        "remainder",
        "remainder per message, beyond the first row",
    ]
    return {
        "title": "Messages sent again with each call",
        "size": "messages",
        "columns": columns,
        "rows": rows,
    }


async def providers(md, url, sizes=(10, 100, 500)):
    warm = md.OpenAICompatible(url + "/v1")
    await warm.model("m").generate("hi")
    rows = []
    for size in sizes:
        providers = []

        async def make(size=size, providers=providers):
            providers += [md.OpenAICompatible(url + "/v1") for _ in range(size)]

        async def ask(providers=providers):
            assert (await providers[-1].model("m").generate("hi")).text == ANSWER

        construct = await _cpu(make) / size * 1e6
        # Providers are too small for the memory figures of the operating system.
        tracemalloc.start()
        await make()
        idle = tracemalloc.get_traced_memory()[0] / size / 1024
        tracemalloc.stop()
        await ask()
        rows.append([size, construct, idle, await _cpu(ask, 100) * 1e6])
        for provider in providers:
            await provider.aclose()
    await warm.aclose()
    columns = ["us to create one", "KiB of an idle one", "us per call of the last one"]
    return {
        "title": "Providers at the same time",
        "size": "providers",
        "columns": columns,
        "rows": rows,
    }


async def queued(md, url, sizes=(10, 100, 1_000, 10_000)):
    async with md.OpenAICompatible(url + "/v1", max_concurrency=4) as provider:
        model = provider.model("m")

        async def ask(number):
            assert (await model.generate("hi", md.with_user_id(f"user {number}"))).text == ANSWER

        rows = await _crowds(ask, sizes)
    return {
        "title": "Users in a queue with 4 slots",
        "size": "users",
        "columns": ["us per user", "total wall ms"],
        "rows": rows,
    }


async def listening(md, url, sizes=(10, 100, 1_000, 3_000)):
    from majordomo.llm import Queued

    positions = 0
    async with md.OpenAICompatible(url + "/v1", max_concurrency=4) as provider:
        model = provider.model("short")

        async def ask(number):
            nonlocal positions
            async with model.stream("hi", md.with_user_id(f"user {number}")) as stream:
                async for event in stream:
                    positions += isinstance(event, Queued)
                assert stream.reply.finish_reason == "stop"

        rows = []
        for size in sizes:
            positions = 0
            (row,) = await _crowds(ask, [size])
            rows.append([*row, positions / (8 + size * max(1, 100 // size))])
    columns = ["us per user", "total wall ms", "positions received, each"]
    return {
        "title": "Users in a queue with 4 slots, with streams that report positions"
        f" ({HELD_DELTAS} deltas each)",
        "size": "users",
        "columns": columns,
        "rows": rows,
    }


async def _crowds(ask, sizes):
    rows = []
    await asyncio.gather(*map(ask, range(8)))
    for size in sizes:

        async def all_of_them(size=size):
            await asyncio.gather(*map(ask, range(size)))

        started = time.perf_counter()
        cpu_seconds = await _cpu(all_of_them, max(1, 100 // size))
        rows.append(
            [
                size,
                cpu_seconds / size * 1e6,
                (time.perf_counter() - started) * 1e3 / max(1, 100 // size),
            ]
        )
    return rows


async def streams(md, url, sizes=(10, 100, 1_000, 2_000)):
    """Open all streams and read one delta; then the server sends the others to each in turn."""
    from majordomo.llm import TextDelta

    rows, level = [], 0
    # A provider opens at most 1,000 connections.
    async with (
        md.OpenAICompatible(url + "/v1") as provider,
        md.OpenAICompatible(url + "/v1") as second,
    ):
        models = cycle([provider.model("held"), second.model("held")])
        for size in (1, *sizes):
            opened, released, left = asyncio.Event(), asyncio.Event(), [size]

            async def listen(opened=opened, released=released, left=left):
                async with next(models).stream("hi") as stream:
                    words = 0
                    async for event in stream:
                        words += isinstance(event, TextDelta)
                        if words == 1 and isinstance(event, TextDelta):
                            left[0] -= 1
                            if not left[0]:
                                opened.set()
                            await released.wait()
                assert words == HELD_DELTAS, words

            tasks = [asyncio.create_task(listen()) for _ in range(size)]
            all_open = asyncio.create_task(opened.wait())
            ended, _ = await asyncio.wait([all_open, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                # Raises at once when the task failed.
                task.result()
            # The level of the first run, which warms up: later runs reuse freed memory.
            level = level or _resident()
            memory = (_resident() - level) / size / 1024
            started = time.process_time()
            await _release(url)
            released.set()
            await asyncio.gather(*tasks)
            rows.append(
                [size, memory, (time.process_time() - started) / size / (HELD_DELTAS - 1) * 1e6]
            )
    columns = ["KiB per stream", "us per delta"]
    return {
        "title": "Open streams",
        "size": "streams",
        "columns": columns,
        "rows": rows[1:],
    }


async def _release(url):
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /release HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


PARTS = {
    "conversation": conversation,
    "providers": providers,
    "queued": queued,
    "listening": listening,
    "streams": streams,
}


if __name__ == "__main__":
    import majordomo

    part, address = sys.argv[1:]
    print(json.dumps(asyncio.run(PARTS[part](majordomo, address))))
