"""stable-diffusion.cpp's own API."""
