"""Thin routes: parse, call a service, answer."""
