"""The process that parses and runs models: it has a socket to its worker and a folder, and no credential.

Nothing here or below knows a database, a broker or a setting of the service (linted).
"""
