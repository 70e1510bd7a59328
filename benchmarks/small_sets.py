"""What training on a small set gains in a district that it has not seen, by start and recipe.

python -m benchmarks.small_sets --city data/mini_city --model logs/OTHER_CITY/best_model.pth

The sets are parts of a mini city's training district: the panoramas nearest to its middle, with all
visits of a place or only one. Each is trained on from ImageNet, and from a network that was trained
in another city, with two recipes; the test district is never trained on. Takes half an hour.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import write_remark, write_table, write_title
from datasets.image_lists import ImagePaths, list_images
from datasets.image_names import parse_image_name

SETS = {  # name: panoramas, and whether only one visit of a place
    "one visit, few streets": (117, True),
    "one visit, the whole district": (10**9, True),
    "all visits, the whole district": (10**9, False),
}
CELL_M = 10  # side of a place
TRAINED = ["--train_all_layers", "--lr=5e-4", "--epochs_num=4", "--iterations_per_epoch=30"]
GENTLE = ["--lr=5e-5", "--epochs_num=2", "--iterations_per_epoch=30"]
RECIPES = {  # name: whether from the other city, flags
    "from ImageNet": (False, TRAINED),
    "from another city": (True, TRAINED),
    "from another city, gently": (True, GENTLE),
}
NETWORK = ["--backbone=EfficientNet_Lite0", "--fc_output_dim=512"]


def main() -> None:
    """Train on each set by each recipe, print R@1 before and after."""
    args = parse_arguments()
    write_title(
        "Small sets",
        "CosPlace with EfficientNet-Lite0, 512-D, 128 px, on parts of a mini city; R@1 on its test "
        "district, before training -> after it. From ImageNet and from the other city: learning "
        "rate 5e-4, all layers, 120 iterations of 32 images; gently: 5e-5, early layers frozen, "
        "60 iterations.",
    )
    train = list_images(args.city / "processed" / "train")
    starts: dict[bool, str] = {}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for set_name, (num_panoramas, one_visit) in SETS.items():
            chosen = choose(train, num_panoramas, one_visit)
            folder = Path(name, set_name.replace(" ", "_").replace(",", ""), "train")
            link(train, chosen, folder)
            for recipe, (is_other, flags) in RECIPES.items():
                start = [f"--resume_model={args.model}"] if is_other else NETWORK
                if is_other not in starts:
                    starts[is_other] = recall(args.city, folder, [*start, "--epochs_num=0"])
                after = recall(args.city, folder, [*start, *flags])
                rows.append((set_name, f"{len(chosen):,}", recipe, starts[is_other], after))
                sys.stderr.write(f"{rows[-1]}\n")
    write_table(("set", "images", "recipe", "before", "after"), rows)
    write_remark("R@1 of queries_v1 and of queries_v2, in percent.")


def choose(images: ImagePaths, num_panoramas: int, one_visit: bool) -> np.ndarray:
    """Return the indices of the images of the panoramas nearest to the middle of the district."""
    names = [parse_image_name(images.name(index)) for index in range(len(images))]
    places_m = {one.pano_id: (one.utm_east_m, one.utm_north_m) for one in names}
    middle_m = np.mean(list(places_m.values()), axis=0)
    ids = sorted(places_m, key=lambda pano: np.hypot(*(np.array(places_m[pano]) - middle_m)))
    if one_visit:
        first = {}
        for pano in ids:
            first.setdefault(tuple(np.floor(np.array(places_m[pano]) / CELL_M)), pano)
        ids = list(first.values())
    kept = set(ids[:num_panoramas])
    return np.array([index for index, one in enumerate(names) if one.pano_id in kept])


def link(images: ImagePaths, chosen: np.ndarray, folder: Path) -> None:
    """Make a folder of links to some images."""
    folder.mkdir(parents=True)
    for index in chosen:
        path = images[int(index)]
        os.symlink(path, folder / os.path.basename(path))


def recall(city: Path, train: Path, flags: Sequence[str]) -> str:
    """Train and test; return R@1 of both kinds of queries."""
    with tempfile.TemporaryDirectory() as run:
        line = [
            *(f"--train_set_folder={train}", f"--val_set_folder={city / 'processed' / 'val'}"),
            f"--test_set_folder={city / 'processed' / 'test'}",
            *("--M=20", "--alpha=60", "--N=2", "--L=1", "--groups_num=4", "--image_size=128"),
            *(
                "--min_images_per_class=3",
                "--batch_size=32",
                f"--cache_folder={run}",
                f"--save_dir={run}/run",
                *flags,
            ),
        ]
        call([sys.executable, "train.py", *line, "--queries_folder=queries_v1"])
        found = [json.loads(Path(run, "run", "results.json").read_text())["recalls"]["R@1"]]
        line = [f"--resume={run}/run/best_model.pth", f"--save_dir={run}/v2", "--no_report"]
        line += [f"--test_set_folder={city / 'processed' / 'test'}", "--queries_folder=queries_v2"]
        call([sys.executable, "eval.py", *line])
        found.append(json.loads(Path(run, "v2", "results.json").read_text())["recalls"]["R@1"])
    return ", ".join(f"{value:.1f}" for value in found)


def call(line: Sequence[str]) -> None:
    """Run a command; show what it said if it fails."""
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--city", type=Path, required=True, help="folder of a mini city")
    cli.add_argument("--model", required=True, help="best_model.pth of another city's training")
    args = cli.parse_args()
    args.city = args.city.resolve()
    return args


if __name__ == "__main__":
    main()
