"""Celery workers: the table of stages, the stages themselves, heartbeats, limits and the dispatcher."""
