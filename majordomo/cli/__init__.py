"""The terminal's face of the library. Needs the extra `cli`."""
