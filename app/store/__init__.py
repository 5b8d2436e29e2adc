"""What outlives a process: all SQL, and folders for work in progress.

Tables, sessions, blobs and the statements on each table. Functions take a session and never
commit, except those that take `Sessions`: they write in short transactions of their own, and say so.
"""
