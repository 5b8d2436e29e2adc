"""What cannot be made into samples, and libraries that are not there."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

from bitbudget_client.errors import BitbudgetError


class SamplesRefused(BitbudgetError, ValueError):
    """Files that cannot be made into samples as asked; the text says what, got, expected and remedy."""


def library(name: str, package: str) -> Any:
    """A library that only samples need, loaded when it is first used.

    Raises:
        SamplesRefused: it is not installed; says how to install it.
    """
    try:
        return import_module(name)
    except ImportError:
        raise SamplesRefused(
            f"these samples need {package}, which is not installed: pip install 'bitbudget-client[samples]'"
        ) from None


def listing(names: Iterable[str], most: int = 10) -> str:
    """Names for a message."""
    known = list(names)
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return (", ".join(repr(name[:80]) for name in known[:most]) or "none") + more
