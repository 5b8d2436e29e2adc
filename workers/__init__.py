"""Celery around the pipeline: claims, heartbeats, limits and the processes that jobs run in."""
