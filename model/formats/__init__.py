"""Formats of network files: ours, and those in which others published networks.

A format is one file of this package and one line of FORMATS: a function of the content of a file,
see `model.checkpoint_files.read_checkpoint`, and of its path. It returns None for a file of another
format. The table names functions and does not import them.
"""

import os
import pkgutil
from collections.abc import Mapping
from typing import Any

from model.formats.content import NetworkContent

FORMATS = (  # MODULE:FUNCTION of this package; the first that knows the file
    "landmarks:read",
    "openibl:read",
    "aggregators:read",
    "matconvnet:read",
    "cosplace:read",  # refuses what is none
)


def recognise(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> NetworkContent:
    """Return what a file says about a network, in the format that it has.

    Args:
        checkpoint: Content of the file.
        path: Of the file, for errors, and for files beside it.

    Raises:
        ValueError: If it is in none of the formats.
    """
    readers = (pkgutil.resolve_name(f"{__name__}.{name}") for name in FORMATS)
    contents = (read(checkpoint, path) for read in readers)
    return next(content for content in contents if content is not None)
