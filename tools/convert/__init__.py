"""Bring one's own photos into the '@' names of SF-XL: `python -m tools.convert --help`."""
