"""Names of data sets: which folders they stand for, and what to do when they are not there."""

import os
from dataclasses import dataclass
from pathlib import Path

from datasets.eval_dataset import EvalSet, load_eval_set


@dataclass(frozen=True)
class TestSet:
    """A set to evaluate on, relative to the datasets folder."""

    __test__ = False  # not a test, though pytest would think so

    folder: str
    queries: str = "queries"
    database: str = "database"


@dataclass(frozen=True)
class TrainSet:
    """A set to train on, and the names of the sets to validate and to test on."""

    folder: str
    val: str
    test: str
    how_to_get: str


_SF_XL_HOW = """SF-XL is given for research on request: https://forms.gle/wpyDzhDyoWLQygAT9
The expected tree (any image may lie in sub-folders):
  {datasets_folder}/sf_xl/processed/train/
  {datasets_folder}/sf_xl/processed/val/database/  .../val/queries/
  {datasets_folder}/sf_xl/processed/test/database/ .../test/queries_v1/ .../test/queries_v2/
Elsewhere on disk: --datasets_folder FOLDER, the environment variable DATASETS_FOLDER, or
--train_set_folder, --val_set_folder and --test_set_folder.
To try CosPlace without SF-XL: make demo. Or make a small city and train on it:
  python -m datasets.mini_city --preset demo --folder {datasets_folder}/mini_city
  python train.py --datasets_folder {datasets_folder} --dataset mini_city \\
      --backbone EfficientNet_Lite0 --image_size 128 --train_all_layers --lr 5e-4 \\
      --epochs_num 8 --iterations_per_epoch 60"""
_MINI_CITY_HOW = "Make it with: python -m datasets.mini_city --folder {datasets_folder}/mini_city"

TEST_SETS = {
    "sf_xl_val": TestSet("sf_xl/processed/val"),
    "sf_xl_test_v1": TestSet("sf_xl/processed/test", "queries_v1"),
    "sf_xl_test_v2": TestSet("sf_xl/processed/test", "queries_v2"),
    "sf_xl_test_night": TestSet("sf_xl/processed/test", "queries_night"),
    "sf_xl_test_occlusion": TestSet("sf_xl/processed/test", "queries_occlusion"),
    "sf_xl_small_val": TestSet("sf_xl/small/val"),
    "sf_xl_small_test": TestSet("sf_xl/small/test", "queries_v1"),
    "mini_city_val": TestSet("mini_city/processed/val"),
    "mini_city_test_v1": TestSet("mini_city/processed/test", "queries_v1"),
    "mini_city_test_v2": TestSet("mini_city/processed/test", "queries_v2"),
}
TRAIN_SETS = {
    "sf_xl": TrainSet("sf_xl/processed/train", "sf_xl_val", "sf_xl_test_v1", _SF_XL_HOW),
    "sf_xl_raw": TrainSet("sf_xl/raw/train/database", "sf_xl_val", "sf_xl_test_v1", _SF_XL_HOW),
    "sf_xl_small": TrainSet("sf_xl/small/train", "sf_xl_small_val", "sf_xl_small_test", _SF_XL_HOW),
    "mini_city": TrainSet(
        "mini_city/processed/train", "mini_city_val", "mini_city_test_v1", _MINI_CITY_HOW
    ),
}


def find_train_folder(name: str, datasets_folder: str | os.PathLike) -> Path:
    """Return the folder of a training set.

    Raises:
        ValueError: If the name is unknown.
        FileNotFoundError: If the folder is not there; says how to get it.
    """
    if name not in TRAIN_SETS:
        raise ValueError(f"Unknown training set '{name}': choose from {', '.join(TRAIN_SETS)}")
    folder = Path(datasets_folder).resolve() / TRAIN_SETS[name].folder
    _check_exists(name, folder, datasets_folder, TRAIN_SETS[name].how_to_get)
    return folder


def load_test_set(
    name: str | None,
    datasets_folder: str | os.PathLike,
    folder: str | os.PathLike | None = None,
    queries_folder: str | None = None,
) -> EvalSet:
    """List the database and the queries of a set, by name or in a folder of the user's.

    Args:
        name: Key of TEST_SETS; not looked at if there is a folder.
        datasets_folder: Where sets are looked for by name.
        folder: Holds `database/`, and usually the queries.
        queries_folder: Where the queries of `folder` are: a name inside it or a path. If None,
            `queries_v1` if there is one, else `queries`.

    Raises:
        ValueError: If the name is unknown, or file names lack UTM positions.
        FileNotFoundError: If a folder is not there or empty; says how to get a named set.
    """
    if folder is not None:
        return _load_folder(Path(folder).resolve(), queries_folder)
    if name not in TEST_SETS:
        raise ValueError(f"Unknown test set '{name}': choose from {', '.join(TEST_SETS)}")
    test_set = TEST_SETS[name]
    how_to_get = _MINI_CITY_HOW if name.startswith("mini_city") else _SF_XL_HOW
    root = Path(datasets_folder).resolve() / test_set.folder
    for part in (test_set.database, test_set.queries):
        _check_exists(name, root / part, datasets_folder, how_to_get)
    return load_eval_set(name, root / test_set.database, root / test_set.queries)


def _load_folder(root: Path, queries_folder: str | None) -> EvalSet:
    if not (root / "database").is_dir():
        raise FileNotFoundError(
            f"{root} has no folder database: it must hold database/ and queries"
        )
    if queries_folder is None:
        queries_folder = "queries_v1" if (root / "queries_v1").is_dir() else "queries"
    queries = root / queries_folder
    if not queries.is_dir() and Path(queries_folder).is_dir():
        queries = Path(queries_folder).resolve()
    return load_eval_set("/".join((*root.parts[-2:], queries.name)), root / "database", queries)


def _check_exists(
    name: str, folder: Path, datasets_folder: str | os.PathLike, how_to_get: str
) -> None:
    if not folder.is_dir():
        how_to_get = how_to_get.format(datasets_folder=datasets_folder)
        raise FileNotFoundError(f"The data set {name} is not at {folder}\n{how_to_get}")
