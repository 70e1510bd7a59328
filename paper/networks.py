"""Networks behind the numbers: trained here, or released by their authors."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from methods import DEFAULT_METHOD
from parser import parse_train_arguments

CHOSEN = {"M": 10, "alpha": 30, "N": 5, "L": 2, "groups_num": 8}  # the paper's hyper-parameters
WHITENING = ("whitening", "whiten_dim", "kept_dims", "whiten_images")  # flags of no influence on
# the training: one training has several whitenings


@dataclass(frozen=True)
class Trained:
    """A network that train.py trains.

    Attributes:
        flags: Flags of train.py by name, sorted: all that define the network and differ from the
            defaults of its method, and the data set.
        start: The network that it starts from, trained with the same seed; None: no other run's.
        released: Name of the published network that may stand for it; empty if none does.
    """

    flags: tuple[tuple[str, Any], ...]
    start: "Trained | None" = None
    released: str = field(default="", compare=False)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """All flags of train.py, defaults included."""
        return vars(parse_train_arguments([*self.argv(0), "--dry_run"]))

    def __getitem__(self, flag: str) -> Any:
        """Return the value of a flag."""
        return self.settings[flag]

    @property
    def resize(self) -> str | None:
        """How test images are resized, as --resize_test_imgs; None: as the test set prescribes."""
        return self["resize_test_imgs"]

    @property
    def dim(self) -> int:
        """Length of the descriptors; 0 if it is that of the backbone's feature maps."""
        if self["whitening"] == "none":
            return self["fc_output_dim"] or 0
        return self["kept_dims"] or self["whiten_dim"]

    @property
    def training(self) -> "Trained":
        """The network before its whitening: the same for all that differ in nothing else."""
        return self.changed(**dict.fromkeys(WHITENING))

    @property
    def origin(self) -> "Trained":
        """The training that has to be done first."""
        return self.start.origin if self.start else self.training

    def changed(self, **flags: Any) -> "Trained":
        """Return it with other flags, from the same start; no published network stands for it."""
        return replace(trained(**(dict(self.flags) | flags)), start=self.start)

    def argv(self, seed: int) -> list[str]:
        """Return the command line of train.py, without folders and start."""
        argv = [f"--seed={seed}"]
        for name, value in self.flags:
            if isinstance(value, tuple):
                argv += [f"--{name}", *(f"{key}={number}" for key, number in value)]
            else:
                argv.append(f"--{name}" if value is True else f"--{name}={value}")
        return argv

    def __str__(self) -> str:
        """Return a name that distinguishes it from other trainings of the paper."""
        flags = dict(self.flags)
        is_cosplace = self["method"] == DEFAULT_METHOD
        parts = ["" if is_cosplace else self["method"], self["backbone"]]
        parts += [f"{self.dim}-D" if self.dim else "", self["aggregation"] if is_cosplace else ""]
        parts += [f"{name} {flags[name]}" for name in CHOSEN if flags.get(name) is not None]
        parts += ["" if is_cosplace else self["dataset"], flags.get("whitening", "")]
        parts += ["" if self["epochs_num"] else "before training"]
        return " ".join(part for part in parts if part not in ("", "none"))

    def slug(self, seed: int) -> str:
        """Return a name for the folder of the run, unique for each setting."""
        digest = hashlib.blake2b(json.dumps([self.flags, seed]).encode(), digest_size=3)
        return f"{str(self).replace(' ', '_')}_seed{seed}_{digest.hexdigest()}"


@dataclass(frozen=True)
class Released:
    """A network that others trained and published.

    Attributes:
        spec: Its name, what eval.py takes as --model.
        resize: See `Trained.resize`.
    """

    spec: str
    resize: str | None = None

    def __str__(self) -> str:
        """Return its name."""
        return self.spec

    def slug(self, seed: int) -> str:
        """Return a name for folders, the same for all seeds."""
        return self.spec.replace(":", "_")


Source = Trained | Released


def trained(**flags: Any) -> Trained:
    """Make a training out of flags of train.py; False and None are left out."""
    unset = (None, False)  # by identity: 0 is a value
    kept = {name: value for name, value in flags.items() if not any(value is x for x in unset)}
    pairs = {name: tuple(v.items()) for name, v in kept.items() if isinstance(v, Mapping)}
    return Trained(tuple(sorted((kept | pairs).items())))
