"""The pytest plugin with the fixtures `no_network` and `only_loopback`.

pytest finds it through an entry point. It imports almost nothing until a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from majordomo.testing.network import NoNetwork


@pytest.fixture(name="no_network")
def _no_network() -> Iterator[NoNetwork]:
    """Forbid all network access in this test; `no_network.forbidden` lists the attempts."""
    from majordomo.testing.network import no_network

    with no_network() as guard:
        yield guard


@pytest.fixture(name="only_loopback")
def _only_loopback() -> Iterator[NoNetwork]:
    """Forbid network access in this test, except to this machine."""
    from majordomo.testing.network import no_network

    with no_network(allow_loopback=True) as guard:
        yield guard
