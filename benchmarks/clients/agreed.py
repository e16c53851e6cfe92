"""What the server sends and the clients expect."""

ANSWER = "Good evening."
DELTAS = 2000
LIVE_DELTAS = 500
SLOW = "latency-50"  # the server waits 50 ms before it answers this model
QUICK = "latency-5"
IMAGE_BYTES = 8 * 1024 * 1024
TURN_IMAGE_BYTES = 2 * 1024 * 1024
TURNS = 10  # answers of the model "tools": all but the last call the tool
HELD_DELTAS = (
    20  # of each stream of the model "held": the first at once, the others when somebody says so
)
QUESTION, SHOUTED = "evening", "EVENING"  # what the tool is called with, and what it answers
