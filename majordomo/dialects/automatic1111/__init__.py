"""AUTOMATIC1111's `/sdapi/v1` routes."""
