"""Who serves models: addresses, keys and quirks. One file per provider; model strings find it by its name."""
