"""Loops compiled by numba, whose machine code is kept for the next process.

It is kept beside the source, or in the user's cache folder where that cannot be written, or in
NUMBA_CACHE_DIR.
"""

import functools
from collections.abc import Callable


def compiled(function: Callable) -> Callable:
    """Compile a function of arrays and numbers at its first call.

    numba itself is not imported before: processes that compute nothing need not wait for it.
    """

    @functools.cache
    def compile_once() -> Callable:
        return compiled_by_numba(function)

    @functools.wraps(function)
    def call(*arguments: object) -> object:
        return compile_once()(*arguments)

    return call


def compiled_by_numba(function: Callable) -> Callable:
    """Return numba's own compiled function, which other compiled functions may call."""
    import numba

    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # there is no place to keep it: each process compiles for itself
        return numba.njit(nogil=True)(function)
