"""The figures of all rounds, as text: medians, and ratios taken within each round."""

from statistics import median

from scenarios import SCENARIOS

HEADINGS = ("", "CPU", "wall", "ratio to {}", "ratio to {}", "peak", "failures", "goal")


def tables(rounds):
    """`rounds` is a list of {scenario: {peer: figures}}."""
    for name, scenario in SCENARIOS.items():
        found = [results[name] for results in rounds if name in results]
        peers = [peer for peer in scenario.peers if any(peer in results for results in found)]
        if peers:
            headings = [heading.format(peer) for heading, peer in zip(HEADINGS, _spread(scenario.against), strict=True)]
            rows = [_row(scenario, peer, found) for peer in peers]
            yield f"{name}: {scenario.title}; per {scenario.unit}\n" + _aligned([headings, *rows])


def _spread(against):
    return ("", "", "", *against, "", "", "")


def _row(scenario, peer, found):
    figures = [results[peer] for results in found if peer in results]
    failures = [f["failures"] for f in figures]
    return [
        peer,
        _time(median(f["cpu_seconds"] / f["units"] for f in figures)),
        _time(median(f["wall_seconds"] / f["units"] for f in figures)),
        *(_ratio(peer, other, found) for other in scenario.against),
        _memory(median(f["peak_bytes"] for f in figures), scenario.picture_bytes),
        f"{max(failures):,}",
        str(scenario.goal(peer) or ""),
    ]


def _ratio(peer, other, found):
    """The median of the rounds, and the smallest and largest. A call that failed is cheap: no ratio where one did."""
    both = [(results[peer], results[other]) for results in found if peer in results and other in results]
    if not both or peer == other:
        return ""
    if any(figures["failures"] for pair in both for figures in pair):
        return "failed"
    ratios = [(ours["cpu_seconds"] / ours["units"]) / (theirs["cpu_seconds"] / theirs["units"]) for ours, theirs in both]
    spread = f" ({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{median(ratios):.2f}{spread}"


def _time(seconds):
    for unit, size in (("s ", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds * 1e6:,.2f} us" if seconds < 1e-4 else f"{seconds * 1e6:,.0f} us"


def _memory(size, of):
    return f"{size / of:.2f} x" if of else f"{size / 1e6:.1f} MB"


def _aligned(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]]).rstrip() for row in rows]
    return "\n".join(f"  {line}" for line in lines) + "\n"
