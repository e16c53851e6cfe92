"""Tests of majordomo; helpers are in `tests.support`, strict servers of vendor APIs in `tests.servers`."""
