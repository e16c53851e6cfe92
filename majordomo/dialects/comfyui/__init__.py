"""ComfyUI's prompt API."""
