"""Measure majordomo and its peers against one fake server; print CPU, memory and ratios.

    python benchmarks/run.py

README.md explains the rows and how to read them.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

from environments import PEERS, contents, prepare
from scenarios import SCENARIOS
from table import aligned, failures, footprint, goals, growth_rows, tables

HERE = Path(__file__).parent
# The other clients are <peer>_client.py.
CLIENTS = {"raw": "raw.py", "majordomo-fast": "majordomo_client.py"}
GROWTH = "growth"
# The parts of clients/growth.py.
PARTS = ("conversation", "providers", "queued", "listening", "streams")
EVERYTHING = [*SCENARIOS, GROWTH]
# For one measurement; a busy machine needs more.
TIMEOUT_SECONDS = 300


def main():
    options = parse()
    allow_many_sockets()
    pythons, versions, not_measured = environments(options)
    rounds = []
    with server() as url, contextlib.suppress(KeyboardInterrupt):
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            rounds.append({})
            one_round(options.only, pythons, url, number, rounds[-1], not_measured)
    growth = {}
    if GROWTH in options.only and "majordomo" in pythons:
        with server() as url, contextlib.suppress(KeyboardInterrupt):
            grow(pythons["majordomo"], url, growth, not_measured)
    results = machine() | {
        "installed": versions,
        "rounds": rounds,
        "growth": growth,
        "not_measured": not_measured,
    }
    show(results)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


def parse():
    parser = argparse.ArgumentParser(
        description="Measure majordomo and its peers against one fake server."
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="rounds; each peer is measured once per round (default 5)",
    )
    parser.add_argument(
        "--only",
        type=listed(EVERYTHING),
        default=EVERYTHING,
        metavar="SCENARIO,...",
        help=", ".join(EVERYTHING),
    )
    parser.add_argument(
        "--peers", type=listed(PEERS), default=PEERS, metavar="PEER,...", help=", ".join(PEERS)
    )
    parser.add_argument("--json", metavar="FILE", help="write all measurements to FILE")
    parser.add_argument(
        "--fresh", action="store_true", help="recreate the environments with the newest peers"
    )
    return parser.parse_args()


def listed(known):
    def names(text):
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(known)}"
            )
        return chosen

    return names


def allow_many_sockets():
    """Raise the limit for 1,000 connections at once; child processes inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def environments(options):
    pythons, versions, not_measured = {}, {}, {}
    for peer in options.peers:
        try:
            pythons[peer] = prepare(peer, options.fresh)
        except subprocess.CalledProcessError as error:
            not_measured[peer] = "could not be installed: " + last_line(error.stderr)
        else:
            versions[peer] = json.loads(contents(pythons[peer]))
    return pythons, versions, not_measured


@contextlib.contextmanager
def server():
    """Start a server process and yield its URL; it ends when its standard input closes."""
    command = [sys.executable, str(HERE / "server.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def one_round(scenarios, pythons, url, number, results, not_measured):
    """Measure all peers of each scenario; each round starts with another peer."""
    for name in scenarios:
        if name == GROWTH:
            continue
        peers = [peer for peer in SCENARIOS[name].peers if peer in pythons]
        start = number % len(peers) if peers else 0
        for peer in peers[start:] + peers[:start]:
            try:
                results.setdefault(name, {})[peer] = measure(peer, name, pythons[peer], url)
            except (subprocess.SubprocessError, ValueError, IndexError) as error:
                not_measured[f"{peer} {name}"] = last_line(getattr(error, "stderr", None)) or repr(
                    error
                )


def measure(peer, scenario, python, url):
    client = CLIENTS.get(peer, peer.replace("-", "_") + "_client.py")
    return answer(python, client, scenario, url)


def grow(python, url, growth, not_measured):
    """Measure growth once, not per round: the shape of the curve matters, not small differences."""
    for part in PARTS:
        print(f"growth: {part}", file=sys.stderr)
        try:
            growth[part] = answer(python, "growth.py", part, url)
        except (subprocess.SubprocessError, ValueError, IndexError) as error:
            not_measured[f"{GROWTH} {part}"] = last_line(getattr(error, "stderr", None)) or repr(
                error
            )


def answer(python, client, what, url):
    command = [str(python), str(HERE / "clients" / client), what, url]
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        env=environment(),
    )
    return json.loads(done.stdout.splitlines()[-1])


def environment():
    """Return the environment without proxy settings and variables of the interpreter."""
    return {
        name: value
        for name, value in os.environ.items()
        if "proxy" not in name.lower() and not name.startswith("PYTHON")
    }


def machine():
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": processor(),
        "cores": os.cpu_count(),
    }


def processor():
    """Return the name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def show(results):
    rounds = results["rounds"]
    print(
        f"Python {results['python']}, {results['cores']} cores of {results['processor']},"
        f" {results['system']}, {len(rounds)} rounds\n"
    )
    for text in tables(rounds):
        print(text)
    for part in results["growth"].values():
        print(f"growth: {part['title']}\n{aligned(growth_rows(part))}")
    print("installed\n" + aligned(list(footprint(results["installed"]))))
    for peer, installed in results["installed"].items():
        if installed:
            print(
                f"{peer}: "
                + ", ".join(f"{name} {version}" for name, (version, _) in sorted(installed.items()))
            )
    for peer, met, of in goals(rounds):
        print(f"{peer}: {met} of {of} goals met")
    for what, why in {**failures(rounds), **results["not_measured"]}.items():
        print(f"! {what}: {why}")


def last_line(text):
    """Return the last line that names an error, or else the last line."""
    lines = (
        (text.decode(errors="replace") if isinstance(text, bytes) else text or "")
        .strip()
        .splitlines()
    )
    return next(
        (line.strip() for line in reversed(lines) if "Error:" in line), lines[-1] if lines else ""
    )


if __name__ == "__main__":
    main()
