"""Being told of every call: what an observer is, and the values it is given. Ledgers, logs and traces are observers."""

from majordomo.observability.observer import Attempt, Call, FirstToken, Observer, Outcome

__all__ = ["Attempt", "Call", "FirstToken", "Observer", "Outcome"]
