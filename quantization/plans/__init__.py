"""All weights of a plan rounded for each other."""
