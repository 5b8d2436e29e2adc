"""The version of this package."""

__version__ = "0.1.0"
AGENT = f"bitbudget-client/{__version__}"
"""As which it tells a server of itself."""
