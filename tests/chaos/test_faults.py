"""Run the fault tables.

Each fault ends in a typed error of the expected class (or in an answer) in time, leaves no resource
open, and the next call works.
"""

from __future__ import annotations

import pytest

from tests.chaos.fault import Fault, Runner, every_runner, one_runner, registry, run

FAULTS = [
    fault
    for name, table in registry().items()
    if not name.startswith("faults_call_")
    for fault in table
]


@one_runner(FAULTS)
def test_fault_ends_as_expected_and_the_next_call_works(fault: Fault, runner: Runner) -> None:
    run(fault, runner)


@pytest.mark.slow
@every_runner(FAULTS)
def test_every_fault_ends_as_expected_over_every_runner(
    faults: list[Fault], runner: Runner
) -> None:
    for fault in faults:
        try:
            run(fault, runner)
        except AssertionError as error:
            raise AssertionError(f"{fault.id}: {error}") from error
