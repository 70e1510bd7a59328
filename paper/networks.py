"""Networks behind the numbers: trained here, released by their authors, or absent so far."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

CHOSEN = {"M": 10, "alpha": 30, "N": 5, "L": 2, "groups_num": 8}  # the paper's hyper-parameters


@dataclass(frozen=True)
class Trained:
    """A CosPlace network that train.py trains.

    Attributes:
        flags: Flags of train.py by name, sorted: all that define the network and differ from the
            defaults, and always dataset, backbone, aggregation, fc_output_dim and image_size.
    """

    flags: tuple[tuple[str, Any], ...]

    def __getitem__(self, flag: str) -> Any:
        """Return the value of a flag."""
        return dict(self.flags)[flag]

    def argv(self, seed: int) -> list[str]:
        """Return the command line of train.py, without folders."""
        argv = [f"--seed={seed}"]
        for name, value in self.flags:
            argv.append(f"--{name}" if value is True else f"--{name}={value}")
        return argv

    def __str__(self) -> str:
        """Return a name that distinguishes it from other trainings of the paper."""
        flags = dict(self.flags)
        dim = flags["fc_output_dim"]
        parts = [flags["backbone"], f"{dim}-D" if dim else "", flags["aggregation"]]
        parts += [f"{name} {flags[name]}" for name in CHOSEN if flags.get(name) is not None]
        return " ".join(part for part in parts if part not in ("", "none"))

    def slug(self, seed: int) -> str:
        """Return a name for the folder of the run, unique for each setting."""
        digest = hashlib.blake2b(json.dumps([self.flags, seed]).encode(), digest_size=3)
        return f"{str(self).replace(' ', '_')}_seed{seed}_{digest.hexdigest()}"


@dataclass(frozen=True)
class Released:
    """A network that others trained and published; `spec` is what eval.py takes as --model."""

    spec: str

    def __str__(self) -> str:
        """Return its name."""
        return self.spec

    def slug(self, seed: int) -> str:
        """Return a name for folders, the same for all seeds."""
        return self.spec.replace(":", "_")


@dataclass(frozen=True)
class Absent:
    """A network that this code cannot make."""

    reason: str = "not implemented yet"


Source = Trained | Released | Absent


def trained(**flags: Any) -> Trained:
    """Make a training out of flags of train.py; False and None are left out."""
    unset = (None, False)  # by identity: 0 is a value
    kept = ((name, value) for name, value in flags.items() if not any(value is x for x in unset))
    return Trained(tuple(sorted(kept)))
