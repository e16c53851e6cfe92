"""Decoders and encoders between bytes and frames: events, lines, JSON, base64, multipart.

All are pure. Decoders return the same frames for any slicing of the bytes, in linear time and
bounded memory.
"""
