"""Observers of calls, and the values that they receive. Ledgers, logs and traces are observers."""

from majordomo.observability.observer import Call, CallResult, FirstToken, Observer, RetryAttempt

__all__ = ["Call", "CallResult", "FirstToken", "Observer", "RetryAttempt"]
