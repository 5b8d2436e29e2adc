"""The life of a job: accepted, announced, claimed, kept alive, finished, or taken back from a lost worker.

The database is the queue of record; a message carries a job id and only wakes somebody up. Every function here owns
its transaction and may be called twice.
"""
