"""Scenarios that need a running client, shared by all peers.

Each warms up, measures, and counts failures instead of raising them.
"""

import asyncio
import gc

from agreed import (
    ANSWER,
    DELTAS,
    IMAGE_BYTES,
    LIVE_DELTAS,
    QUESTION,
    QUICK,
    SHOUTED,
    SLOW,
    TURN_IMAGE_BYTES,
    TURNS,
)
from measure import Measurement
from png import jpeg_side, made_up_png, true_png


class Attempts:
    """Counts failures and keeps the first one."""

    def __init__(self):
        self.failures = 0
        self.first = None

    async def make(self, awaitable, expected):
        try:
            found = await awaitable
        except Exception as error:
            self._failed(repr(error))
        else:
            if found != expected:
                self._failed(f"expected {str(expected)[:80]}, got {str(found)[:80]}")

    def _failed(self, why):
        self.failures += 1
        self.first = self.first or why[:300]


async def run(scenario, client, url):
    async with client(url) as built:
        await SCENARIOS[scenario](built)


async def _measured(work, units):
    """Measure `work(attempts)`."""
    attempts = Attempts()
    gc.collect()
    measurement = Measurement().start()
    await work(attempts)
    measurement.stop()
    return measurement, {"units": units, "failures": attempts.failures, "example": attempts.first}


async def reply(client, warm=30, calls=300):
    async def one_after_another(attempts, count=calls):
        for _ in range(count):
            await attempts.make(client.reply("m"), ANSWER)

    await one_after_another(Attempts(), warm)
    measurement, figures = await _measured(one_after_another, calls)
    measurement.show(**figures)


def streaming(model, deltas, streams, method="deltas"):
    async def scenario(client):
        async def one_after_another(attempts, count=streams):
            for _ in range(count):
                await attempts.make(getattr(client, method)(model), deltas)

        await one_after_another(Attempts(), 1)
        measurement, figures = await _measured(one_after_another, streams * deltas)
        measurement.show(**figures)

    return scenario


def burst(method):
    """Measure from the request to the first delta; the server sends all of them at once."""

    async def scenario(client, warm=3, calls=30):
        attempts, spent = Attempts(), []
        for number in range(warm + calls):
            measurement = Measurement().start()
            await attempts.make(getattr(client, method)("burst", measurement.stop), DELTAS)
            if number >= warm:
                spent.append(measurement)
        total = Measurement()
        total.cpu_seconds = sum(one.cpu_seconds for one in spent)
        total.wall_seconds = sum(one.wall_seconds for one in spent)
        total.peak_bytes = max(one.peak_bytes for one in spent)
        total.show(calls, attempts.failures, attempts.first)

    return scenario


async def hundred(client, calls=1000):
    """1,000 calls, 100 at a time; the connections are already open."""

    async def at_a_time(attempts, count=calls, workers=100):
        left = iter(range(count))

        async def worker():
            for _ in left:
                await attempts.make(client.reply(SLOW), ANSWER)

        await asyncio.gather(*(worker() for _ in range(workers)))

    await at_a_time(Attempts(), 200)
    measurement, figures = await _measured(at_a_time, calls)
    measurement.show(**figures)


async def _burst(client, attempts, calls=1000):
    await asyncio.gather(*(attempts.make(client.reply(SLOW), ANSWER) for _ in range(calls)))


async def cold(client, calls=1000):
    """Make one call first, so that no import is measured; the other connections are not open."""
    await client.reply("m")
    measurement, figures = await _measured(lambda attempts: _burst(client, attempts), calls)
    measurement.show(**figures)


async def warm(client, calls=1000):
    for _ in range(2):
        await _burst(client, Attempts())
    measurement, figures = await _measured(lambda attempts: _burst(client, attempts), calls)
    measurement.show(**figures)


async def image(client, calls=5):
    await _large(lambda model: client.image(model), IMAGE_BYTES, calls)


async def turn(client, calls=5):
    images = [made_up_png(TURN_IMAGE_BYTES) for _ in range(4)]
    small = [made_up_png(1024)]
    await _large(lambda model: client.turn(small if model == "small" else images), ANSWER, calls)


async def _large(call, expected, calls):
    """Measure memory of the first large call, and CPU of the calls after it.

    Later calls may reuse memory that the allocator kept.
    """
    for _ in range(3):
        await call("small")
    first, _ = await _measured(lambda attempts: attempts.make(call("m"), expected), 1)

    async def more(attempts):
        for _ in range(calls):
            await attempts.make(call("m"), expected)

    measurement, figures = await _measured(more, calls)
    measurement.peak_bytes = first.peak_bytes
    measurement.show(**figures)


async def chain(client, rounds=6, calls=50):
    """Alternate calls through a chain of two, of which the first answers, and calls without one."""
    chained, plain = client.chain("m"), lambda: client.reply("m")
    attempts = Attempts()
    spent = {chained: [], plain: []}
    # The first round warms up.
    for number in range(rounds + 1):
        for ask in (chained, plain):
            measurement = Measurement().start()
            for _ in range(calls):
                await attempts.make(ask(), ANSWER)
            if number:
                spent[ask].append(measurement.stop())
    total = Measurement()
    total.cpu_seconds = sum(one.cpu_seconds for one in spent[chained])
    total.wall_seconds = sum(one.wall_seconds for one in spent[chained])
    total.peak_bytes = max(one.peak_bytes for one in spent[chained])
    baseline = sum(one.cpu_seconds for one in spent[plain])
    total.show(rounds * calls, attempts.failures, attempts.first, baseline_cpu_seconds=baseline)


def shout(text: str) -> str:
    """Say it louder."""
    if text != QUESTION:
        raise ValueError(text)
    return SHOUTED


async def tool_loop(client, warm=2, loops=15):
    async def one_after_another(attempts, count=loops):
        for _ in range(count):
            await attempts.make(client.tools(TURNS, shout), ANSWER)

    await one_after_another(Attempts(), warm)
    measurement, figures = await _measured(one_after_another, loops * TURNS)
    measurement.show(**figures)


async def conversation(client, messages=200, images=20, size=64 * 1024, calls=10):
    """Continue a long conversation. Each call sends all of it; memory is that of the first call."""
    history = []
    for number in range(0, messages, 2):
        images_of_turn = [made_up_png(size)] if number % (messages // images) == 0 else []
        history += [
            ("user", f"This is question {number} of a long evening. " * 4, *images_of_turn),
            ("assistant", f"And this is its answer. {number} " * 8),
        ]
    say = client.conversation(history)
    await client.reply("m")
    first, _ = await _measured(lambda attempts: attempts.make(say("go on"), ANSWER), 1)

    async def more(attempts):
        for _ in range(calls):
            await attempts.make(say("go on"), ANSWER)

    measurement, figures = await _measured(more, calls)
    measurement.peak_bytes = first.peak_bytes
    measurement.show(**figures)


async def gate(client, users=1000, slots=4):
    """All users wait for one of few slots; the baseline is as many workers without a queue."""
    left = iter(range(users))
    none = Attempts()

    async def worker():
        for _ in left:
            await none.make(client.reply(QUICK), ANSWER)

    async def without_queue(_):
        await asyncio.gather(*(worker() for _ in range(slots)))

    ask = client.queue(slots, QUICK)
    finished = []

    async def wait_and_ask(attempts, number):
        await attempts.make(ask(number), ANSWER)
        finished.append(number)

    async def with_queue(attempts, count=users):
        await asyncio.gather(*(wait_and_ask(attempts, number) for number in range(count)))

    await with_queue(Attempts(), 2 * slots)
    await client.reply(QUICK)
    baseline, _ = await _measured(without_queue, users)
    finished.clear()
    measurement, figures = await _measured(with_queue, users)
    # A call that has a slot may finish before others that have one, but not before others.
    overtaken = [
        number for position, number in enumerate(finished) if abs(position - number) > 2 * slots
    ]
    if overtaken:
        figures |= {
            "failures": len(overtaken),
            "example": f"{len(overtaken)} out of order, the first of them user {overtaken[0]}",
        }
    measurement.show(**figures, baseline_cpu_seconds=baseline.cpu_seconds)


async def derive(client, images=50, different=10, side=384):
    """Derive three files of each image, all images at once if the peer supports that."""
    sources = [true_png(side, seed) for seed in range(different)] * (images // different)
    await client.derive(sources[:1])
    measurement, figures = await _measured(
        lambda attempts: attempts.make(client.derive(sources), [3] * images), images
    )
    measurement.show(**figures)


def processing(work, expected, warm=2, calls=10):
    """Return a scenario of `work(client, image)` with images of 1024 x 1024, one after another."""

    async def scenario(client):
        data = true_png(1024)

        async def found():
            return work(client, data)

        async def one_after_another(attempts, count=calls):
            for _ in range(count):
                await attempts.make(found(), expected)

        await one_after_another(Attempts(), warm)
        measurement, figures = await _measured(one_after_another, calls)
        measurement.show(**figures)

    return scenario


def _stripped(client, data):
    found = client.strip(data)
    return b"lighthouse" in found, found[:4]


SCENARIOS = {
    "reply": reply,
    "stream": streaming("m", DELTAS, 5),
    "stream-coalesced": streaming("coalesced", DELTAS, 5),
    "stream-live": streaming("live", LIVE_DELTAS, 1),
    "ndjson": streaming("m", DELTAS, 5, "lines"),
    "burst": burst("deltas"),
    "ndjson-burst": burst("lines"),
    "hundred": hundred,
    "cold": cold,
    "warm": warm,
    "image": image,
    "turn": turn,
    "chain": chain,
    "tool-loop": tool_loop,
    "conversation": conversation,
    "gate": gate,
    "derive": derive,
    "resize": processing(lambda client, data: jpeg_side(client.resize(data, fast=False)), 512),
    "resize-fast": processing(lambda client, data: jpeg_side(client.resize(data, fast=True)), 512),
    "strip": processing(_stripped, (False, b"\x89PNG"), calls=6),
}
