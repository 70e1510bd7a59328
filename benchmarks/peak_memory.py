"""The most memory that a piece of work takes, what it maps from files counted apart. On Linux."""

import threading

from benchmarks.memory import read_memory_mb

_INTERVAL_S = 0.005


class PeakMemory:
    """Looks at the memory of this process while a `with` block runs."""

    def __enter__(self) -> "PeakMemory":
        """Begin; what is in memory now does not count."""
        self.own_mb = self.mapped_mb = 0.0  # anonymous, and pages of files
        self._before = self._read()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._is_over.wait(_INTERVAL_S)  # and once more at the end
            own_mb, mapped_mb = self._read()
            self.own_mb = max(self.own_mb, own_mb - self._before[0])
            self.mapped_mb = max(self.mapped_mb, mapped_mb - self._before[1])

    def _read(self) -> tuple[float, float]:
        return read_memory_mb("RssAnon"), read_memory_mb("RssFile")
