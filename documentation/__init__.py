"""The documentation as a site that works from a disk: `make docs`."""
