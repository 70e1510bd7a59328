"""Loops over millions of items, compiled by numba when they are first called."""

import functools
from collections.abc import Callable


def compiled(function: Callable) -> Callable:
    """Compile a function of arrays and numbers at its first call, and keep the machine code.

    It is kept beside the source, or in the user's cache folder where that cannot be written. numba
    itself is not imported before a call: processes that compute nothing need not wait for it.
    """

    @functools.cache
    def compile_once() -> Callable:
        import numba

        try:
            return numba.njit(cache=True, nogil=True)(function)
        except RuntimeError:  # there is no place to keep it
            return numba.njit(nogil=True)(function)

    @functools.wraps(function)
    def call(*arguments: object) -> object:
        return compile_once()(*arguments)

    return call
