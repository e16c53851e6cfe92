"""The scenarios that need a running client, the same for every peer: warm up, measure, count failures instead of raising them."""

import asyncio
import gc

from agreed import ANSWER, DELTAS, LIVE_DELTAS, PICTURE_BYTES, SLOW, TURN_PICTURE_BYTES
from measure import Measurement
from png import made_up_png


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


async def picture(client, calls=5):
    await _large(lambda model: client.picture(model), PICTURE_BYTES, calls)


async def turn(client, calls=5):
    pictures = [made_up_png(TURN_PICTURE_BYTES) for _ in range(4)]
    small = [made_up_png(1024)]
    await _large(lambda model: client.turn(small if model == "small" else pictures), ANSWER, calls)


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


SCENARIOS = {
    "reply": reply,
    "stream": streaming("m", DELTAS, 5),
    "stream-coalesced": streaming("coalesced", DELTAS, 5),
    "stream-live": streaming("live", LIVE_DELTAS, 1),
    "ndjson": streaming("m", DELTAS, 5, "lines"),
    "hundred": hundred,
    "cold": cold,
    "warm": warm,
    "picture": picture,
    "turn": turn,
}
