"""The two scales of experiments: the paper's, and the mini city, which takes minutes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.backbones import find_spec
from model.network import IMAGE_SIZE
from paper.networks import CHOSEN, Trained, trained

# Values of the sweeps are legible only in the paper's Figure 5: these go around the chosen ones.
_PAPER_SWEEPS = {
    "M": (5, 10, 15, 20),
    "alpha": (10, 15, 30, 60, 90, 360),
    "N": (1, 2, 3, 5, 7),
    "L": (1, 2, 3),
    "groups_num": (1, 2, 4, 8, 16, 32, 50),
}
_PAPER_DIMS = {  # released ones; transformers have one dimension only
    "VGG16": (64, 128, 256, 512),
    "ResNet18": (32, 64, 128, 256, 512),
    "ResNet50": (32, 64, 128, 256, 512, 1024, 2048),
    "ResNet101": (32, 64, 128, 256, 512, 1024, 2048),
    "ViT_B16": (0,),
    "CCT14_224": (0,),
    "CCT14_384": (0,),
}


@dataclass(frozen=True)
class Scale:
    """Size and data sets of the runs.

    Attributes:
        name: On the command line.
        mark: On every output; empty for the paper's own scale.
        flags: Of train.py, for every training.
        resize: Of eval.py, as --resize_test_imgs; None leaves it to the data set and the network.
        stand_ins: Data set of the paper -> the one to use; sets without one are left out. None:
            the paper's own.
        sweeps: Values of Figure 5 by flag.
        dims: Descriptor dimensions of Figure 6 by backbone; 0: without linear layer.
    """

    name: str
    mark: str
    flags: Mapping[str, Any]
    resize: str | None
    stand_ins: Mapping[str, str] | None
    sweeps: Mapping[str, tuple[int, ...]]
    dims: Mapping[str, tuple[int, ...]]

    def dataset(self, name: str) -> str | None:
        """Return the data set that stands for one of the paper's; None if none does."""
        return name if self.stand_ins is None else self.stand_ins.get(name)

    def datasets(self, names: Sequence[str]) -> list[str]:
        """Return the data sets that stand for some of the paper's, each once."""
        return list(dict.fromkeys(found for name in names if (found := self.dataset(name))))

    def cosplace(self, backbone: str, dim: int, aggregation: str = "", **changed: Any) -> Trained:
        """Return the paper's training of a network, with some flags changed.

        SF-XL's processed folder has only the images of the chosen classes and groups: for others,
        all of them are needed.
        """
        chosen = CHOSEN | changed
        is_processed = chosen["groups_num"] <= CHOSEN["groups_num"] and all(
            chosen[name] == CHOSEN[name] for name in ("M", "alpha", "N", "L")
        )
        spec = find_spec(backbone)
        flags = {
            "dataset": self.dataset("sf_xl" if is_processed else "sf_xl_raw"),
            "backbone": backbone,
            "fc_output_dim": dim,
            "aggregation": aggregation or spec.aggregation,
            "image_size": spec.image_size or IMAGE_SIZE,
        }
        return trained(**(flags | self.flags | changed))


PAPER = Scale(
    name="paper",
    mark="",
    flags={},
    resize=None,
    stand_ins=None,
    sweeps=_PAPER_SWEEPS,
    dims=_PAPER_DIMS,
)
MINI = Scale(
    name="mini",
    mark="mini city, tiny runs: not the paper's data",
    flags={
        "backbone_weights": "none",
        "image_size": 64,
        "resize_test_imgs": "64",
        "epochs_num": 8,
        "iterations_per_epoch": 6,
        "min_images_per_class": 5,
        "lr": 1e-3,
    },
    resize="64",
    stand_ins={
        "sf_xl": "mini_city",
        "sf_xl_raw": "mini_city",
        "sf_xl_val": "mini_city_val",
        "sf_xl_test_v1": "mini_city_test_v1",
        "sf_xl_test_v2": "mini_city_test_v2",
        "pitts250k": "mini_city_test_v1",
        "pitts30k": "mini_city_val",
        "tokyo247": "mini_city_test_v2",
    },
    sweeps={
        "M": (5, 10, 20),
        "alpha": (30, 60, 90),
        "N": (3, 5, 7),
        "L": (1, 2),
        "groups_num": (1, 4, 8),
    },
    dims={
        "VGG16": (128, 512),
        "ResNet18": (32, 128, 512),
        "ResNet50": (512, 2048),
        "ResNet101": (512, 2048),
        "ViT_B16": (0,),
        "CCT14_224": (0,),
        "CCT14_384": (0,),
    },
)
SCALES = {scale.name: scale for scale in (PAPER, MINI)}
