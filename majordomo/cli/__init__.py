"""The `majordomo` command line. Needs the extra `cli`."""
