"""Marks for tests of what some systems do not have."""

from __future__ import annotations

import importlib.util
import os

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is not available")
needs_sigint = pytest.mark.skipif(
    os.name == "nt", reason="a program cannot send Ctrl-C to one process on Windows"
)
needs_terminal = pytest.mark.skipif(
    importlib.util.find_spec("termios") is None, reason="there are no pseudo-terminals"
)
needs_proc = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="sockets and memory are read where Linux lists them"
)
needs_read_only_folders = pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 0)() == 0, reason="no folder is read-only for the superuser"
)
