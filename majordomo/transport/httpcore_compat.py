"""The httpcore to use: httpcore2 when it is installed (extra `fast`), else httpcore.

Both have the same names.
"""

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
