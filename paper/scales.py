"""The scales of experiments: the paper's; the mini city, as a trial; and a demo of all methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from methods import DEFAULT_METHOD, METHODS
from model.aggregation import AGGREGATIONS
from model.backbones import find_spec
from model.published import TRAINED_DIMS
from model.resizing import IMAGE_SIZE
from paper.networks import CHOSEN, Released, Trained, trained

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

_COSPLACE_DIM = 512  # where CosPlace is one of several methods


@dataclass(frozen=True)
class Scale:
    """Size and data sets of the runs.

    Attributes:
        name: On the command line.
        mark: On every output; empty for the paper's own scale.
        machine: Key of `costs.MACHINES`: the plan's estimates are for it.
        city: Preset of the mini city that it runs on; empty: on the paper's data sets.
        flags: Of train.py, for every training.
        flags_of: Of train.py, by objective or method, beside these.
        resize: Of released networks, see `Trained.resize`.
        train_set: The training set to use instead of all of the paper's; None: the paper's own.
        stand_ins: Test set of the paper -> the one to use; sets without one are left out. None:
            the paper's own.
        sweeps: Values of Figure 5 by flag.
        dims: Descriptor dimensions of Figure 6 by backbone; 0: without linear layer.
        clusters: Of aggregations of the VLAD family; None: as many as the method has.
        vlad_dims: Descriptor dimensions of Figure 6 of methods that whiten.
        left_out: Methods that it does not train, and why, as sentences.
        tests_start: Whether methods are compared with their networks before training.
    """

    name: str
    mark: str
    machine: str
    city: str
    flags: Mapping[str, Any]
    flags_of: Mapping[str, Mapping[str, Any]]
    resize: str | None
    train_set: str | None
    stand_ins: Mapping[str, str] | None
    sweeps: Mapping[str, tuple[int, ...]]
    dims: Mapping[str, tuple[int, ...]]
    clusters: int | None
    vlad_dims: tuple[int, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    tests_start: bool = True

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
            "dataset": self.train_set or ("sf_xl" if is_processed else "sf_xl_raw"),
            "backbone": backbone,
            "fc_output_dim": dim,
            "aggregation": aggregation or spec.aggregation,
            "image_size": spec.image_size or IMAGE_SIZE,
        }
        source = trained(**(flags | self._flags(DEFAULT_METHOD) | changed))
        is_released = source["aggregation"] == "gem" and dim in TRAINED_DIMS.get(backbone, ())
        is_released &= self.train_set is None and not changed
        return replace(source, released=f"cosplace:{backbone}:{dim}" if is_released else "")

    def compared(self, method: str, train_set: str, released: str = "", **changed: Any) -> Trained:
        """Return the training of one of the other methods, with some flags changed.

        Args:
            method: Key of METHODS.
            train_set: Key of TRAIN_SETS.
            released: See `Trained`; at the paper's scale only.
            changed: Flags of train.py.
        """
        flags = {"method": method, "dataset": self.train_set or train_set} | self._flags(method)
        row = METHODS[method] | flags
        spec = find_spec(row["backbone"])
        aggregation = row.get("aggregation", spec.aggregation)
        dims = AGGREGATIONS[aggregation].fc_output_dim, spec.fc_output_dim
        chosen = {  # by train.py, where a method has none
            "aggregation": aggregation,
            "fc_output_dim": next(dim for dim in dims if dim is not None),
            "image_size": spec.image_size or IMAGE_SIZE,
        }
        flags |= {name: value for name, value in chosen.items() if name not in row}
        first = AGGREGATIONS[aggregation].extends  # also a method's name
        options = METHODS[first or method].get("aggregation_args", {})  # those that runs will have
        if "clusters" in options and "aggregation_args" not in flags:
            flags["aggregation_args"] = options | {"clusters": self.clusters or options["clusters"]}
        return replace(
            trained(**(flags | changed)),
            start=self.compared(first, train_set) if first else None,
            released=released if self.train_set is None else "",
        )

    def method(self, name: str) -> Trained:
        """Return the training of a row of METHODS, on its data set or what stands for it."""
        if name != DEFAULT_METHOD:
            return self.compared(name, METHODS[name].get("dataset", "sf_xl"))
        return self.cosplace(self.flags.get("backbone", METHODS[name]["backbone"]), _COSPLACE_DIM)

    def released(self, spec: str) -> Released:
        """Return a network that others trained and published."""
        return Released(spec, self.resize)

    def _flags(self, method: str) -> Mapping[str, Any]:
        of_objective = self.flags_of.get(METHODS[method]["objective"], {})
        return {**self.flags, **of_objective, **self.flags_of.get(method, {})}


PAPER = Scale(
    name="paper",
    mark="",
    machine="RTX 3090",
    city="",
    flags={},
    flags_of={},
    resize=None,
    train_set=None,
    stand_ins=None,
    sweeps=_PAPER_SWEEPS,
    dims=_PAPER_DIMS,
    clusters=None,
    vlad_dims=(128, 256, 512, 1024, 2048, 4096),
)
_MINI_TUPLES = {
    "epochs_num": 2,
    "queries_per_epoch": 24,
    "cache_refresh_rate": 12,
    "neg_samples_num": 100,
    "tuple_panoramas": 80,
    "whiten_dim": 48,
    "kept_dims": 32,
    "whiten_images": 200,
}
_MINI_PLACES = {
    "no-use_amp16": True,
    "epochs_num": 1,
    "iterations_per_epoch": 14,
    "batch_size": 8,
    "lr_warmup": 2,
}
_SMALL_DINOV2 = {  # 16 patches
    "backbone": "DINOv2_S",
    "image_size": 56,
    "resize_test_imgs": "56x56",
    "train_last_blocks": 2,
}
MINI = Scale(
    name="mini",
    mark="mini city, tiny runs: not the paper's data",
    machine="2 cores",
    city="small",
    flags={"backbone_weights": "none", "image_size": 64, "resize_test_imgs": "64", "lr": 1e-3},
    flags_of={
        "classification": {"epochs_num": 8, "iterations_per_epoch": 6, "min_images_per_class": 5},
        "eigenplaces": {"epochs_num": 8, "iterations_per_epoch": 3, "no-use_amp16": True},
        "cosplace_dinov2": _SMALL_DINOV2,
        "tuples": _MINI_TUPLES,
        "sfrs": _MINI_TUPLES | {"generations": 2, "epochs_per_generation": 1},
        "places": _MINI_PLACES,
        "mixvpr": {
            "aggregation_args": {"height": 4, "width": 4, "out_channels": 64},
            "resize_test_imgs": "64x64",
        },
        "salad": _SMALL_DINOV2 | {"aggregation_args": {"clusters": 4}},
        "boq": _SMALL_DINOV2 | {"aggregation_args": {"proj_channels": 64}, "lr_warmup_epochs": 0},
    },
    resize="64",
    train_set="mini_city",
    stand_ins={
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
    clusters=5,  # SRALNet draws 4 shadows among the others
    vlad_dims=(16, 32),
    tests_start=False,
)
_DEMO_TUPLES = {
    "epochs_num": 1,
    "queries_per_epoch": 320,
    "cache_refresh_rate": 320,
    "tuple_panoramas": 600,  # of 2,940: each round extracts the whole database
    "optimizer": "adam",
    "lr": 1e-4,
    "freeze_bn": "all",  # statistics of so few places in a batch would take 30 points of R@1
    "patience": 0,
    "whiten_dim": 512,
    "kept_dims": 512,
    "whiten_images": 2000,
}
_DEMO_PLACES = {
    "no-use_amp16": True,
    "epochs_num": 1,
    "iterations_per_epoch": 48,
    "batch_size": 20,
    "optimizer": "adamw",
    "lr": 3e-4,
    "lr_warmup": 8,
    "freeze_bn": "all",
    "train_last_blocks": 0,
}
DEMO = Scale(
    name="demo",
    mark="mini city: not the paper's data, nor its networks",
    machine="2 cores",
    city="demo",
    flags={
        "backbone": "EfficientNet_Lite0",
        "image_size": 128,
        "resize_test_imgs": "128",
        "train_all_layers": True,
    },
    flags_of={  # 3,840 images for each method
        "classification": {"epochs_num": 2, "iterations_per_epoch": 60, "lr": 5e-4},
        "eigenplaces": {"epochs_num": 2, "iterations_per_epoch": 30, "lr": 5e-4}
        | {"no-use_amp16": True},
        "tuples": _DEMO_TUPLES,
        "sfrs": _DEMO_TUPLES  # in the second epoch a tuple has up to 22 images
        | {"epochs_num": 2, "generations": 2, "epochs_per_generation": 1}
        | {"queries_per_epoch": 112, "cache_refresh_rate": 112},
        "places": _DEMO_PLACES,  # the map of 128 x 128 has 4 x 4 locations
        "mixvpr": {
            "aggregation_args": {"height": 4, "width": 4},
            "resize_test_imgs": "128x128",
        },
        "salad": {"aggregation_args": {"clusters": 8, "token_dim": 0}, "lr_linear": 48},
        "boq": {"aggregation_args": {"proj_channels": 128}, "lr_warmup_epochs": 0},
    },
    resize="128",
    train_set="mini_city",
    stand_ins={"sf_xl_test_v1": "mini_city_test_v1", "sf_xl_test_v2": "mini_city_test_v2"},
    sweeps={},
    dims={},
    clusters=8,
    vlad_dims=(),
    left_out={
        "cosplace_dinov2": "cosplace_dinov2 is left out: EfficientNet-Lite0 has no class token, "
        "and DINOv2 from random weights would learn nothing in so short a training."
    },
)
SCALES = {scale.name: scale for scale in (PAPER, MINI, DEMO)}
