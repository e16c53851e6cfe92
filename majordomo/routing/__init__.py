"""Routing: model strings, the configuration file, provider registry, chains, health and doctor."""
