from __future__ import annotations

import pytest
from chaos import faults_http
from chaos.fault import Fault, Runner, quick, run, whole_families


@quick(faults_http.FAULTS)
def test_a_fault_is_survived(fault: Fault, runner: Runner) -> None:
    run(fault, runner)


@pytest.mark.slow
@whole_families(faults_http.FAULTS)
def test_every_fault_is_survived_however_it_is_carried(faults: list[Fault], runner: Runner) -> None:
    for fault in faults:
        run(fault, runner)
