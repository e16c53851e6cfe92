"""Values that the server sends and the clients expect."""

ANSWER = "Good evening."
DELTAS = 2000
LIVE_DELTAS = 500
# The server waits 50 ms and 5 ms before it answers these models.
SLOW = "latency-50"
QUICK = "latency-5"
IMAGE_BYTES = 8 * 1024 * 1024
TURN_IMAGE_BYTES = 2 * 1024 * 1024
# Replies of the model "tools"; all but the last call the tool.
TURNS = 10
# Deltas of a stream of the model "held": the first at once, the others after /release.
HELD_DELTAS = 20
# The argument and the result of the tool.
QUESTION, SHOUTED = "evening", "EVENING"
