"""The scenarios that need a running client, the same for every peer: warm up, measure, count failures instead of raising them."""

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
    """Counts what failed; keeps the first failure to show."""

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
    """`work(attempts)` between two readings of the clocks."""
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


async def hundred(client, calls=1000):
    """1,000 calls, 100 at a time; the connections are open already."""

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
    """One call first, so that no import is counted; the other connections are still to be opened."""
    await client.reply("m")
    measurement, figures = await _measured(lambda attempts: _burst(client, attempts), calls)
    measurement.show(**figures)


async def warm(client, calls=1000):
    for _ in range(2):
        await _burst(client, Attempts())
    measurement, figures = await _measured(lambda attempts: _burst(client, attempts), calls)
    measurement.show(**figures)


async def image(client, calls=5):
    await _large(lambda model: client.picture(model), IMAGE_BYTES, calls)


async def turn(client, calls=5):
    images = [made_up_png(TURN_IMAGE_BYTES) for _ in range(4)]
    small = [made_up_png(1024)]
    await _large(lambda model: client.turn(small if model == "small" else images), ANSWER, calls)


async def _large(call, expected, calls):
    """Memory is that of the first large call in the process, CPU that of the calls after it: what is freed may stay with the allocator."""
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
    """Through a chain of two members, of which the first answers, and beside it the same calls without a chain, by turns."""
    chained, plain = client.chain("m"), lambda: client.reply("m")
    attempts = Attempts()
    spent = {chained: [], plain: []}
    for number in range(rounds + 1):  # the first warms up
        for ask in (chained, plain):
            measurement = Measurement().start()
            for _ in range(calls):
                await attempts.make(ask(), ANSWER)
            if number:
                spent[ask].append(measurement.stop())
    whole = Measurement()
    whole.cpu_seconds = sum(one.cpu_seconds for one in spent[chained])
    whole.wall_seconds = sum(one.wall_seconds for one in spent[chained])
    whole.peak_bytes = max(one.peak_bytes for one in spent[chained])
    beside = sum(one.cpu_seconds for one in spent[plain])
    whole.show(rounds * calls, attempts.failures, attempts.first, beside_cpu_seconds=beside)


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
    """A long conversation goes on. Each call sends all of it once more; memory is that of the first call."""
    history = []
    for number in range(0, messages, 2):
        shown = [made_up_png(size)] if number % (messages // images) == 0 else []
        history += [
            ("user", f"This is question {number} of a long evening. " * 4, *shown),
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


async def gate(client, callers=1000, slots=4):
    """All come at once and wait for one of few places, and beside it the same calls by as many workers, without a line."""
    left = iter(range(callers))
    none = Attempts()

    async def worker():
        for _ in left:
            await none.make(client.reply(QUICK), ANSWER)

    async def without_a_line(_):
        await asyncio.gather(*(worker() for _ in range(slots)))

    ask = client.line(slots, QUICK)
    finished = []

    async def wait_and_ask(attempts, number):
        await attempts.make(ask(number), ANSWER)
        finished.append(number)

    async def line(attempts, count=callers):
        await asyncio.gather(*(wait_and_ask(attempts, number) for number in range(count)))

    await line(Attempts(), 2 * slots)
    await client.reply(QUICK)
    beside, _ = await _measured(without_a_line, callers)
    finished.clear()
    measurement, figures = await _measured(line, callers)
    # Whoever has a place may overtake others who have one, nobody else.
    overtaken = [number for place, number in enumerate(finished) if abs(place - number) > 2 * slots]
    if overtaken:
        figures |= {
            "failures": len(overtaken),
            "example": f"{len(overtaken)} out of order, the first of them caller {overtaken[0]}",
        }
    measurement.show(**figures, beside_cpu_seconds=beside.cpu_seconds)


async def derive(client, images=50, different=10, side=384):
    """Three files of each image, all images at once where the peer can."""
    made = [true_png(side, seed) for seed in range(different)] * (images // different)
    await client.derive(made[:1])
    measurement, figures = await _measured(
        lambda attempts: attempts.make(client.derive(made), [3] * images), images
    )
    measurement.show(**figures)


def processing(work, expected, warm=2, calls=10):
    """`work(client, image)` on one image of 1024 x 1024 after the other."""

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
