"""Whose HTTP/1.1 connection is used: httpcore2 when it is installed (the extra `fast`), else httpcore. Both give the same names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpcore
else:
    try:
        import httpcore2 as httpcore
    except ImportError:
        import httpcore

__all__ = ["httpcore"]
