"""Broken HTTP."""

from __future__ import annotations

from chaos.fault import Fault
from loopback import Peer, whole

import majordomo as md

FAULTS = [
    Fault(
        "broken HTTP",
        "no HTTP at all",
        lambda peer: (peer.send(b"SSH-2.0-x\r\n"), peer.close()),
        md.BadResponseError,
        foreign=md.ConnectionFailedError,
        kept=False,
    ),
    Fault("broken HTTP", "nothing", Peer.close, md.ConnectionFailedError, kept=False),
    Fault("broken HTTP", "an error, well said", lambda peer: peer.send(whole(b'{"error": "no"}', 400)), md.InvalidRequestError, kept=True),
]
