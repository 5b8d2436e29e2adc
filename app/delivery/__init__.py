"""Telling people's own servers what happened to their jobs: signed messages, each sent until it is taken.

The format is that of Standard Webhooks (standardwebhooks.com).
"""
