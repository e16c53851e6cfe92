"""Each fault of the tables: a typed error of its class (or an answer), on time, nothing left, and the next call works."""

from __future__ import annotations

import pytest

from tests.chaos.fault import Fault, Runner, quick, registry, run, whole_families

FAULTS = [
    fault
    for name, table in registry().items()
    if not name.startswith("faults_call_")
    for fault in table
]


@quick(FAULTS)
def test_a_fault_is_survived(fault: Fault, runner: Runner) -> None:
    run(fault, runner)


@pytest.mark.slow
@whole_families(FAULTS)
def test_every_fault_is_survived_however_it_is_carried(faults: list[Fault], runner: Runner) -> None:
    for fault in faults:
        try:
            run(fault, runner)
        except AssertionError as error:
            raise AssertionError(f"{fault.id}: {error}") from error
