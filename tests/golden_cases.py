"""Golden numbers: what the original code of each method gave on made inputs, in tests/golden/.

Arrays are named by their part: in.* inputs, w.* weights by state-dict name, mid.* intermediates,
out.* outputs, loss.*, grad.*, recon.* (computed from the formula, not by the original code), bad.*
(a known bug of the original: not to be matched).
"""

import json
from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).parent / "golden"


class Golden:
    """A case: arrays by name, and `meta` with the original's source and settings (`cfg`)."""

    def __init__(self, file: Path) -> None:
        with np.load(file, allow_pickle=False) as arrays:
            self.arrays = dict(arrays)
        self.meta = json.loads(str(self.arrays.pop("meta")))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def names(self, prefix: str) -> list[str]:
        """Return the names of arrays that begin with a prefix, without it, sorted."""
        return sorted(name[len(prefix) :] for name in self.arrays if name.startswith(prefix))

    def ragged(self, name: str) -> list[np.ndarray]:
        """Return arrays of different lengths, stored end to end as name.flat and name.len."""
        return np.split(self[f"{name}.flat"], np.cumsum(self[f"{name}.len"])[:-1])

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights by state-dict name; w8.* are int8, to be multiplied by 2^-e8.*."""
        weights = {name: self[f"w.{name}"] for name in self.names("w.")}
        for name in self.names("w8."):
            weights[name] = self[f"w8.{name}"] * 2.0 ** -int(self[f"e8.{name}"])
        return weights


def golden(name: str) -> Golden:
    """Return a case by its name."""
    return Golden(_FOLDER / f"{name}.npz")


def assert_close(got: object, wanted: object, tolerance: float) -> None:
    """Compare shapes, and values relative to the largest one that is wanted."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert got.shape == wanted.shape, (got.shape, wanted.shape)
    error = np.abs(got - wanted).max() / max(np.abs(wanted).max(), 1e-12)
    assert error < tolerance, f"the relative error is {error:.2e}"
