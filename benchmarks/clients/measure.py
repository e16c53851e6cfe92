"""Measure one scenario in this process and print one line of JSON.

Only `sys` and `time` are imported before the clock starts, because imports are measured too.
"""

import sys
import time


class Measurement:
    """CPU and wall time between `start` and `stop`, and peak memory above the first level."""

    def start(self):
        self._level = _forget_peak()
        self._wall = time.perf_counter()
        self._cpu = time.process_time()
        return self

    def stop(self):
        self.cpu_seconds = time.process_time() - self._cpu
        self.wall_seconds = time.perf_counter() - self._wall
        self.peak_bytes = _peak() - self._level
        return self

    def show(self, units, failures=0, example=None, **more):
        """Print the figures; `baseline_cpu_seconds` in `more` is the work without the feature."""
        import json

        figures = {
            "cpu_seconds": self.cpu_seconds,
            "wall_seconds": self.wall_seconds,
            "peak_bytes": self.peak_bytes,
            "units": units,
            "failures": failures,
            "first_failure": example,
        } | more
        print(json.dumps(figures))


def _forget_peak():
    """Reset the high-water mark, where the system supports that, and return the current level."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return _peak()
    return _status("VmRSS:")


def _peak():
    try:
        return _status("VmHWM:")
    except OSError:
        import resource

        scale = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def main(load, client, image_model=None):
    """Run the scenario named on the command line.

    `load` imports the library. `client(url)` is an async context manager with `reply` and the other
    methods that the scenario needs: `deltas`, `image`, `turn` and so on. `image_model(url)` imports
    the library and creates an image model.
    """
    scenario, url = sys.argv[1:]
    if scenario == "import":
        _measure_once(load)
    elif scenario == "image-model":
        _measure_once(lambda: image_model(url))
    elif scenario == "first-reply":
        _measure_once(lambda: _first_reply(client, url))
    else:
        import asyncio

        from workload import run

        asyncio.run(run(scenario, client, url))


def _measure_once(work):
    measurement = Measurement().start()
    work()
    measurement.stop().show(units=1)


def _first_reply(client, url):
    import asyncio

    async def ask():
        async with client(url) as built:
            await built.reply("m")

    asyncio.run(ask())
