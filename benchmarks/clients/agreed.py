"""What the server sends and the clients expect."""

ANSWER = "Good evening."
DELTAS = 2000
LIVE_DELTAS = 500
SLOW = "latency-50"  # the server waits 50 ms before it answers this model
PICTURE_BYTES = 8 * 1024 * 1024
TURN_PICTURE_BYTES = 2 * 1024 * 1024
