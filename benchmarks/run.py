"""Measures majordomo and its peers against one fake server, in turn, and prints CPU, memory and ratios.

    python benchmarks/run.py

What the rows mean and how to read them: README.md beside this file.
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
from table import tables

HERE = Path(__file__).parent
CLIENTS = {"raw": "raw.py", "majordomo-fast": "majordomo_client.py"}
LONGEST = 300  # seconds for one measurement


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
    about = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count(), "installed": versions}
    show(about, rounds, not_measured)
    if options.json:
        Path(options.json).write_text(json.dumps(about | {"rounds": rounds, "not_measured": not_measured}, indent=1))


def parse():
    parser = argparse.ArgumentParser(description="Measure majordomo and its peers against one fake server.")
    parser.add_argument("--rounds", type=int, default=5, help="every peer is measured once in each (default 5)")
    parser.add_argument("--only", type=listed(SCENARIOS), default=list(SCENARIOS), metavar="SCENARIO,...", help=", ".join(SCENARIOS))
    parser.add_argument("--peers", type=listed(PEERS), default=PEERS, metavar="PEER,...", help=", ".join(PEERS))
    parser.add_argument("--json", metavar="FILE", help="write every single measurement there")
    parser.add_argument("--fresh", action="store_true", help="make the environments anew, with the newest peers")
    return parser.parse_args()


def listed(known):
    def names(text):
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
        return chosen

    return names


def allow_many_sockets():
    """1,000 calls at once need as many connections, on both sides; children inherit the limit."""
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
    """The address of a server in a process of its own, which ends with its standard input."""
    command = [sys.executable, str(HERE / "server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


def one_round(scenarios, pythons, url, number, results, not_measured):
    """Peer after peer within a scenario; each round begins with another peer."""
    for name in scenarios:
        peers = [peer for peer in SCENARIOS[name].peers if peer in pythons]
        start = number % len(peers) if peers else 0
        for peer in peers[start:] + peers[:start]:
            try:
                results.setdefault(name, {})[peer] = measure(peer, name, pythons[peer], url)
            except (subprocess.SubprocessError, ValueError, IndexError) as error:
                not_measured[f"{peer} {name}"] = last_line(getattr(error, "stderr", None)) or repr(error)


def measure(peer, scenario, python, url):
    client = HERE / "clients" / CLIENTS.get(peer, f"{peer}_client.py")
    command = [str(python), str(client), scenario, url]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=LONGEST, env=environment())
    return json.loads(done.stdout.splitlines()[-1])


def environment():
    """Ours, without what would send a client through a proxy or change its interpreter."""
    return {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and not name.startswith("PYTHON")}


def show(about, rounds, not_measured):
    print(f"Python {about['python']}, {about['cores']} cores, {about['system']}, {len(rounds)} rounds\n")
    for text in tables(rounds):
        print(text)
    for peer, installed in about["installed"].items():
        if installed:
            size = sum(megabytes for _, megabytes in installed.values())
            names = ", ".join(f"{name} {version}" for name, (version, _) in sorted(installed.items()))
            print(f"{peer}: {len(installed)} distributions, {size:.1f} MB: {names}")
    failures = {
        f"{peer} {name}": figures["first_failure"]
        for results in rounds
        for name, found in results.items()
        for peer, figures in found.items()
        if figures["failures"]
    }
    for what, why in {**failures, **not_measured}.items():
        print(f"! {what}: {why}")


def last_line(text):
    """The line that says what went wrong: the last that names an error, else the last."""
    lines = (text.decode(errors="replace") if isinstance(text, bytes) else text or "").strip().splitlines()
    return next((line.strip() for line in reversed(lines) if "Error:" in line), lines[-1] if lines else "")


if __name__ == "__main__":
    main()
