"""Write the results page from files of `run.py --json`. Nothing on the page is written by hand.

    python benchmarks/page.py FILE... > docs/benchmarks.md

The rounds of several files are combined into one run. The chart is written to
docs/images/benchmarks.svg, or to the file of `--chart`.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from chart import chart
from table import failures, footprint, goals, growth_rows, headings, measured, ratios, row

CHART = Path(__file__).parent.parent / "docs" / "images" / "benchmarks.svg"
CHARTED = ("first-reply", "reply", "stream", "hundred", "cold", "warm", "turn", "image")

HEAD = """# Benchmarks

Written by `python benchmarks/page.py` from a run of `python benchmarks/run.py`.
`benchmarks/README.md` explains each row and how it is measured; [Speed](speed.md) explains where
the time goes.
"""
READ = """\
Compare the ratios, not the times: machines differ. A ratio is the median over the rounds, each
peer against the other within one round, with the smallest and the largest in brackets when there
was more than one round. Peak is the memory above the level before the work; for images it is a
multiple of their bytes. A row in which calls failed has no ratio, because failing is cheap. The
goals were set before the code was written; `majordomo-fast` has the extra `[fast]`.
"""
CHART_IMAGE = "![CPU of each peer as a multiple of openai's](images/benchmarks.svg)\n"


def main():
    parser = argparse.ArgumentParser(
        description="Write the results page from what run.py --json wrote."
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--chart", type=Path, default=CHART)
    options = parser.parse_args()
    results = combine([json.loads(file.read_text()) for file in options.files])
    options.chart.parent.mkdir(parents=True, exist_ok=True)
    options.chart.write_text(chart(charted(results["rounds"])))
    sys.stdout.write(page(results))


def combine(all_results):
    """Combine the results of several files.

    The machine is that of the first file; measurements that only later files have are added.
    """
    results = dict(all_results[0])
    for key in ("installed", "growth", "not_measured"):
        results[key] = {
            name: value for one in reversed(all_results) for name, value in one[key].items()
        }
    return results | {"rounds": [each for one in all_results for each in one["rounds"]]}


def page(results):
    rounds = results["rounds"]
    met = "; ".join(f"`{peer}`: {count} of {of} goals met" for peer, count, of in goals(rounds))
    parts = [
        HEAD,
        f"{about(results)}\n",
        f"{met}.\n",
        CHART_IMAGE,
        f"{READ}\n",
    ]
    for name, scenario, peers, found in measured(rounds):
        rows = [headings(scenario), *(row(scenario, peer, found) for peer in peers)]
        parts.append(f"## {name}\n\n{scenario.title}; per {scenario.unit}.\n\n{markdown(rows)}")
        if scenario.left_out:
            parts.append(f"Left out: {scenario.left_out}.\n")
    if results["growth"]:
        parts.append(
            "## Growth\n\nmajordomo alone with a growing number of something, measured once.\n"
        )
        parts += [
            f"{part['title']}:\n\n{markdown(growth_rows(part))}"
            for part in results["growth"].values()
        ]
    parts.append(
        "## Installed\n\nWithout bytecode and pip.\n\n"
        + markdown(list(footprint(results["installed"])))
    )
    if versions := {
        name: which
        for found in reversed(results["installed"].values())
        for name, (which, _) in found.items()
    }:
        named = [
            f"{name} {versions[name]}"
            for name in sorted(versions, key=str.lower)
            if name in results["installed"] or name in SHOWN
        ]
        parts.append("Versions: " + ", ".join(named) + ".\n")
    if problems := {**failures(rounds), **results["not_measured"]}:
        parts.append(
            "## Failed or not measured\n\n"
            + "\n".join(f"* {what}: `{one_line(why)}`" for what, why in problems.items())
            + "\n"
        )
    return "\n".join(parts)


SHOWN = (
    "any-llm-sdk",
    "h11",
    "httptools",
    "pydantic",
    "pydantic-ai-slim",
    "pybase64",
    "opencv-python-headless",
)


def about(results):
    cores, count = results["cores"], len(results["rounds"])
    rounds = f"{count} round" + "s" * (count != 1)
    return (
        f"{cores} cores of {results['processor']}, {results['system']},"
        f" Python {results['python']}; {rounds}."
    )


def markdown(rows):
    """Return a Markdown table without columns that are empty in every row."""
    kept = [
        number
        for number in range(len(rows[0]))
        if number == 0 or any(row[number] for row in rows[1:])
    ]
    first, *others = [[row[number] for number in kept] for row in rows]
    lines = [first, ["---", *["---:"] * (len(kept) - 1)], *others]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def charted(rounds):
    """Yield (title, [(peer, median ratio to openai)]) for scenarios that compare with openai."""
    for name, scenario, peers, found in measured(rounds):
        others = [peer for peer in peers if peer not in ("raw", "openai")]
        bars = [(peer, median(each)) for peer in others if (each := ratios(peer, "openai", found))]
        if name in CHARTED and bars:
            yield scenario.title, bars


def one_line(text):
    """Return the text of a failure without line breaks and local paths, at most 200 characters."""
    line = " ".join(str(text).replace("`", "'").split()).replace(
        str(Path(__file__).parent.parent), "."
    )
    return line[:200]


if __name__ == "__main__":
    main()
