"""Whether certificates can be trusted: a zoo of trained networks, an independent check of each, and coverage."""
