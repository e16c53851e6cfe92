"""The embedded offline provider, under the module name by which model strings find it."""

from majordomo.offline.provider import Offline

__all__ = ["Offline"]
