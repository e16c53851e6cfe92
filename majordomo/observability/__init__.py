"""Being told of every call: what an observer is, and the values it is given. Ledgers, logs and traces are observers."""

from majordomo.observability.observer import Call, CallResult, FirstToken, Observer, RetryAttempt

__all__ = ["Call", "CallResult", "FirstToken", "Observer", "RetryAttempt"]
