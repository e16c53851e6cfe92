"""Codecs: the JSON of each backend, one folder per vendor.

A codec translates values into HTTP requests and response bodies into values, and nothing else. It
uses no socket, no clock and no randomness: time and ids are arguments.
"""
