"""Tests of majordomo.

Helpers are in `tests.support`, strict servers of vendor APIs in `tests.servers`.
"""
