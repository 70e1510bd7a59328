"""Bring one's own photos into the '@' names of SF-XL: `python -m datasets.convert --help`."""
