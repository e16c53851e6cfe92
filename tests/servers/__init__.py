"""Strict test servers for the APIs of vendors and local engines."""
