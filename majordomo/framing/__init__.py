"""Bytes into frames and back, pure: any slicing of the bytes gives the same frames, in linear time and bounded memory."""
