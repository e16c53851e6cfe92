"""What each backend's JSON looks like. A door translates values into requests and answers into values, and nothing else:
no socket, no clock, no randomness; what it needs of those it takes as arguments."""
