"""Tables of all rounds: medians, and ratios within each round, as rows and as text."""

from statistics import median

from scenarios import ITSELF, MAX_DISTRIBUTIONS, MAX_MEGABYTES, OURS, SCENARIOS

FAILED = "failed"


def measured(rounds):
    """Yield name, scenario, measured peers and the results of each round."""
    for name, scenario in SCENARIOS.items():
        found = [results[name] for results in rounds if name in results]
        peers = [peer for peer in scenario.peers if any(peer in results for results in found)]
        if peers:
            yield name, scenario, peers, found


def tables(rounds):
    """`rounds` is a list of {scenario: {peer: figures}}."""
    for name, scenario, peers, found in measured(rounds):
        rows = [headings(scenario), *(row(scenario, peer, found) for peer in peers)]
        left_out = f"  left out: {scenario.left_out}\n" if scenario.left_out else ""
        yield f"{name}: {scenario.title}; per {scenario.unit}\n{aligned(rows)}{left_out}"


def headings(scenario):
    return [
        "",
        "CPU",
        "wall",
        *(f"ratio to {other}" for other in scenario.against),
        "peak",
        "failures",
        "goal",
        "",
    ]


def row(scenario, peer, found):
    figures = [results[peer] for results in found if peer in results]
    return [
        peer,
        time(median(f["cpu_seconds"] / f["units"] for f in figures)),
        time(median(f["wall_seconds"] / f["units"] for f in figures)),
        *(_ratio(peer, other, found) for other in scenario.against),
        _memory(median(f["peak_bytes"] for f in figures), scenario.image_bytes),
        f"{max(f['failures'] for f in figures):,}",
        str(scenario.goal(peer) or ""),
        verdict(scenario, peer, found),
    ]


def ratios(peer, other, found):
    """Return the ratio of each round; None when a call failed, because failing is cheap."""
    if other == ITSELF:
        pairs = [
            (results[peer]["cpu_seconds"], results[peer]["baseline_cpu_seconds"])
            for results in found
            if _has_baseline(results, peer)
        ]
        return None if _failed(found, peer) else [ours / theirs for ours, theirs in pairs]
    both = [
        (results[peer], results[other]) for results in found if peer in results and other in results
    ]
    if any(figures["failures"] for pair in both for figures in pair):
        return None
    return [
        (ours["cpu_seconds"] / ours["units"]) / (theirs["cpu_seconds"] / theirs["units"])
        for ours, theirs in both
    ]


def verdict(scenario, peer, found):
    """Return whether the median reaches the goal; "" without a goal or a peer to compare with."""
    goal = scenario.goal(peer)
    if goal is None:
        return ""
    reached = ratios(peer, goal.peer, found)
    if reached == []:
        return ""
    if reached is None or median(reached) > goal.ratio:
        return "missed"
    peak = median(results[peer]["peak_bytes"] for results in found if peer in results) / (
        scenario.image_bytes or 1
    )
    return "missed" if goal.peak is not None and peak > goal.peak else "met"


def footprint(installed):
    """Yield rows: peer, distributions, megabytes, those of Pillow, goal, and whether it is met."""
    yield ["", "distributions", "MB", "of which Pillow", "goal", ""]
    for peer, found in installed.items():
        if found:
            size, pillow = (
                sum(megabytes for _, megabytes in found.values()),
                found.get("pillow", ("", 0))[1],
            )
            goal = (
                f"<= {MAX_DISTRIBUTIONS}; <= {MAX_MEGABYTES} MB without Pillow"
                if peer == "majordomo"
                else ""
            )
            met = (
                "met"
                if len(found) <= MAX_DISTRIBUTIONS and size - pillow <= MAX_MEGABYTES
                else "missed"
            )
            yield [
                peer,
                str(len(found)),
                f"{size:.1f}",
                f"{pillow:.1f}" if pillow else "",
                goal,
                met if goal else "",
            ]


def goals(rounds):
    """Yield for the plain and the fast install how many goals are met, and of how many."""
    for peer in OURS:
        verdicts = [
            verdict(scenario, peer, found)
            for _, scenario, peers, found in measured(rounds)
            if peer in peers
        ]
        judged = [one for one in verdicts if one]
        yield peer, judged.count("met"), len(judged)


def failures(rounds):
    """Return the first failure of each peer and scenario."""
    return {
        f"{peer} {name}": figures["first_failure"]
        for results in rounds
        for name, found in results.items()
        for peer, figures in found.items()
        if figures["failures"]
    }


def growth_rows(part):
    """Return the rows of a growth table; `part` has `size` (what grows), `columns` and `rows`."""
    return [
        [part["size"], *part["columns"]],
        *([f"{line[0]:,}", *(f"{value:,.2f}" for value in line[1:])] for line in part["rows"]),
    ]


def time(seconds):
    for unit, size in (("s ", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds * 1e6:,.2f} us" if seconds < 1e-4 else f"{seconds * 1e6:,.0f} us"


def aligned(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    return "\n".join(f"  {line}" for line in lines) + "\n"


def _has_baseline(results, peer):
    return "baseline_cpu_seconds" in results.get(peer, {})


def _failed(found, peer):
    return any(results[peer]["failures"] for results in found if peer in results)


def _ratio(peer, other, found):
    """Return the median of the rounds with the smallest and largest."""
    each = ratios(peer, other, found) if peer != other else []
    if each is None:
        return FAILED
    if not each:
        return ""
    digits = 4 if median(each) < 0.02 else 2
    spread = f" ({min(each):.{digits}f}-{max(each):.{digits}f})" if len(each) > 1 else ""
    return f"{median(each):.{digits}f}{spread}"


def _memory(size, of):
    return f"{size / of:.2f} x" if of else f"{size / 1e6:.1f} MB"
