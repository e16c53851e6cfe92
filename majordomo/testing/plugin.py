"""For pytest, which finds it by itself: the fixtures `no_network` and `only_loopback`. It loads next to nothing until one is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from majordomo.testing.network import NoNetwork


@pytest.fixture(name="no_network")
def _no_network() -> Iterator[NoNetwork]:
    """No connection and no look-up of a name in this test; the value lists the `forbidden` attempts."""
    from majordomo.testing.network import no_network

    with no_network() as guard:
        yield guard


@pytest.fixture(name="only_loopback")
def _only_loopback() -> Iterator[NoNetwork]:
    """The same, with this machine's own addresses allowed."""
    from majordomo.testing.network import no_network

    with no_network(allow_loopback=True) as guard:
        yield guard
