"""The file that comes out: written, counted, read back."""
