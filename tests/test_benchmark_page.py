from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
OWN = {file.stem for file in BENCHMARKS.glob("*.py")}


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the page module; forget the other benchmark modules, whose names are generic."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = {name: sys.modules.pop(name) for name in OWN & set(sys.modules)}
    import page

    yield page
    for name in OWN:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def figures(cpu: float, failures: int = 0, **more: Any) -> dict[str, Any]:
    first = "one of them" if failures else None
    return {
        "cpu_seconds": cpu,
        "wall_seconds": 2 * cpu,
        "peak_bytes": 0,
        "units": 10,
        "failures": failures,
        "first_failure": first,
        **more,
    }


def results(**rounds: Any) -> dict[str, Any]:
    return {
        "python": "3.11.7",
        "system": "Linux 6",
        "processor": "A Processor",
        "cores": 2,
        "installed": {"raw": {}, "majordomo": {"pillow": ["12.3", 7.0], "pydantic": ["2.14", 9.0]}},
        "rounds": [rounds],
        "growth": {
            "queued": {
                "title": "Users",
                "size": "users",
                "columns": ["us per user"],
                "rows": [[10, 400.0], [1000, 410.5]],
            }
        },
        "not_measured": {"ollama": "could not be installed:\n no such thing"},
    }


REPLY = {"openai": figures(0.01), "majordomo": figures(0.002), "majordomo-fast": figures(0.0024)}


def test_row_shows_whether_its_goal_is_met(page: ModuleType) -> None:
    written = page.page(results(reply=REPLY))
    assert (
        "|  | CPU | wall | ratio to openai | peak | failures | goal |  |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| openai | 1.0 ms | 2.0 ms |  | 0.0 MB | 0 |  |  |\n"
        "| majordomo | 200 us | 400 us | 0.20 | 0.0 MB | 0 | <= 0.22 openai | met |\n"
        "| majordomo-fast | 240 us | 480 us | 0.24 | 0.0 MB | 0 | <= 0.14 openai | missed |\n"
    ) in written
    assert "`majordomo`: 1 of 1 goals met; `majordomo-fast`: 0 of 1 goals met." in written


def test_page_shows_machine_installs_growth_and_missing_peers(
    page: ModuleType,
) -> None:
    written = page.page(results(reply=REPLY))
    assert "2 cores of A Processor, Linux 6, Python 3.11.7; 1 round." in written
    assert "| majordomo | 2 | 16.0 | 7.0 | <= 13; <= 16 MB without Pillow | met |" in written
    assert "| 1,000 | 410.50 |" in written
    assert "* ollama: `could not be installed: no such thing`" in written


def test_row_with_failures_has_no_ratio(page: ModuleType) -> None:
    written = page.page(results(reply=REPLY | {"majordomo": figures(0.001, failures=3)}))
    assert (
        "| majordomo | 100 us | 200 us | failed | 0.0 MB | 3 | <= 0.22 openai | missed |" in written
    )
    assert "* majordomo reply: `one of them`" in written


def test_ratio_to_itself_needs_no_other_peer(page: ModuleType) -> None:
    written = page.page(results(chain={"majordomo": figures(0.012, baseline_cpu_seconds=0.01)}))
    assert "| majordomo | 1.2 ms | 2.4 ms | 1.20 | 0.0 MB | 0 |" in written


def test_rounds_of_several_files_are_combined(page: ModuleType) -> None:
    slower = {"openai": figures(0.01), "majordomo": figures(0.003)}
    written = page.page(page.combine([results(reply=REPLY), results(reply=slower)]))
    assert "| 0.25 (0.20-0.30) |" in written
    assert "2 rounds." in written


def test_chart_has_a_bar_for_each_ratio(page: ModuleType) -> None:
    svg = ElementTree.fromstring(page.chart(page.charted(results(reply=REPLY)["rounds"])))
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[1:] == ["one chat reply", "majordomo", "0.20", "majordomo-fast", "0.24"]
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}rect"))) == 2
