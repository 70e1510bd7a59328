"""Data sets by name: folders, protocols, known counts and how to get them."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATABASE_FOLDERS = ("database", "gallery")


@dataclass(frozen=True)
class TestSet:
    """A set to evaluate on, and the protocol that its published recalls are measured by."""

    __test__ = False  # not a test, though pytest would think so

    folders: tuple[str, ...]  # below the datasets folder; the first that exists
    queries: str = "queries"
    database: tuple[str, ...] = DATABASE_FOLDERS
    num_database: int | None = None  # known counts; others are warned of
    num_queries: int | None = None
    threshold_m: float = 25.0  # a database image this near is a positive
    frames: int | None = None  # instead of metres: largest difference of frame numbers
    every_nth_query: int = 1
    only_official_queries: bool = False  # of MSLS; those without positives are left out
    per_city: bool = False  # search only the city of the query
    resize: str = "none"  # "none", shorter side "480", or "480x640" (HxW)
    protocol: str = "all queries"
    paper_column: str | None = None  # in the tables of the CosPlace paper
    how_to_get: str = ""  # {datasets_folder} is filled in


@dataclass(frozen=True)
class TrainSet:
    """A set to train on, and the names of the sets to validate and to test on."""

    folders: tuple[str, ...]  # below the datasets folder; the first that exists
    val: str
    test: str
    how_to_get: str


_SF_XL_HOW = """SF-XL is given for research on request: https://forms.gle/wpyDzhDyoWLQygAT9
The expected tree (any image may lie in sub-folders):
  {datasets_folder}/sf_xl/processed/train/      the classes of the default flags, 5.6 M images
  {datasets_folder}/sf_xl/raw/train/database/   all 41.2 M images, for other flags: sf_xl_raw
  {datasets_folder}/sf_xl/raw/train/panoramas/  3.4 M panoramas, for eigenplaces: sf_xl_panoramas
  {datasets_folder}/sf_xl/processed/val/database/  .../val/queries/
  {datasets_folder}/sf_xl/processed/test/database/ .../test/queries_v1/ .../test/queries_v2/
Elsewhere on disk: --datasets_folder FOLDER, the environment variable DATASETS_FOLDER, or
--train_set_folder, --val_set_folder and --test_set_folder.
To try CosPlace without SF-XL: make demo. Or make a small city and train on it:
  python -m mini_city --preset demo --folder {datasets_folder}/mini_city
  python train.py --datasets_folder {datasets_folder} --dataset mini_city \\
      --backbone EfficientNet_Lite0 --image_size 128 --train_all_layers --lr 5e-4 \\
      --epochs_num 8 --iterations_per_epoch 60"""
_MINI_CITY_HOW = "Make it with: python -m mini_city --folder {datasets_folder}/mini_city"
_FORMATTER = """Its images are brought into this tree and into '@' names by
https://github.com/gmberton/VPR-datasets-downloader; gallery/ is accepted for database/.
Elsewhere on disk: --datasets_folder FOLDER, the environment variable DATASETS_FOLDER, or
"""
_FORMATTED_HOW = _FORMATTER + "--test_set_folder FOLDER --queries_folder NAME."
_FORMATTED_TRAIN_HOW = (
    "That folder holds database/ and queries/, for methods that train on tuples.\n"
    + _FORMATTER
    + "--train_set_folder, --val_set_folder and --test_set_folder."
)
_OFFICIAL_MSLS_HOW = (
    _FORMATTED_HOW
    + """
Which queries are official is read from the metadata of MSLS, in {datasets_folder}/msls/train_val/
or {datasets_folder}/mapillary_sls/train_val/: <city>/query/subtask_index.csv and raw.csv."""
)
_GSV_CITIES_HOW = """GSV-Cities is at https://www.kaggle.com/datasets/amaralibey/gsv-cities
The expected tree:
  {datasets_folder}/gsv_cities/Dataframes/CITY.csv     one table a city, of all images
  {datasets_folder}/gsv_cities/Images/CITY/*.jpg
Elsewhere on disk: --datasets_folder FOLDER, the environment variable DATASETS_FOLDER, or
--train_set_folder FOLDER, which may also hold images with '@' names: their classes are places.
Some cities of it: --cities London Boston"""


def _formatted(name: str, split: str = "test", **fields: Any) -> TestSet:
    """Describe a set that VPR-datasets-downloader formats."""
    folders = (f"{name}/images/{split}", f"{name}/{split}")
    return TestSet(folders, **({"how_to_get": _FORMATTED_HOW} | fields))


def _sf_xl_test(condition: str, num_queries: int, paper_column: str | None = None) -> TestSet:
    return TestSet(
        ("sf_xl/processed/test",),
        f"queries_{condition}",
        num_database=2_805_840,
        num_queries=num_queries,
        paper_column=paper_column,
        how_to_get=_SF_XL_HOW,
    )


def _svox(condition: str, num_queries: int) -> TestSet:
    return _formatted("svox", queries=condition, num_database=17_166, num_queries=num_queries)


def _formatted_train(name: str, val: str, test: str) -> TrainSet:
    """Describe a set of database and queries that VPR-datasets-downloader formats."""
    return TrainSet((f"{name}/images/train", f"{name}/train"), val, test, _FORMATTED_TRAIN_HOW)


def _mini_city(split: str, queries: str = "queries") -> TestSet:
    return TestSet((f"mini_city/processed/{split}",), queries, how_to_get=_MINI_CITY_HOW)


_SF_XL_VAL_COUNTS = {"num_database": 8_015, "num_queries": 7_983, "how_to_get": _SF_XL_HOW}
TEST_SETS = {
    "sf_xl_val": TestSet(("sf_xl/processed/val",), **_SF_XL_VAL_COUNTS),
    "sf_xl_test_v1": _sf_xl_test("v1", 1_000, "SF-XL test v1"),
    "sf_xl_test_v2": _sf_xl_test("v2", 598, "SF-XL test v2"),
    "sf_xl_test_night": _sf_xl_test("night", 466),
    "sf_xl_test_occlusion": _sf_xl_test("occlusion", 76),
    "sf_xl_small_val": TestSet(("sf_xl/small/val",), **_SF_XL_VAL_COUNTS),
    "sf_xl_small_test": TestSet(
        ("sf_xl/small/test",),
        "queries_v1",
        num_database=27_191,
        num_queries=1_000,
        protocol="the small database: its recalls are far above those of sf_xl_test_v1",
        how_to_get=_SF_XL_HOW,
    ),
    "pitts30k": _formatted(
        "pitts30k", num_database=10_000, num_queries=6_816, paper_column="Pitts30k"
    ),
    "pitts30k_val": _formatted("pitts30k", "val", num_database=10_000, num_queries=7_608),
    "pitts30k_train": _formatted("pitts30k", "train", num_database=10_000, num_queries=7_416),
    "pitts250k": _formatted(
        "pitts250k", num_database=83_952, num_queries=8_280, paper_column="Pitts250k"
    ),
    "pitts250k_val": _formatted("pitts250k", "val"),
    "tokyo247": _formatted(
        "tokyo247", num_database=75_984, num_queries=315, paper_column="Tokyo 24/7"
    ),
    "msls_val": _formatted(
        "msls",
        "val",
        num_database=18_871,
        num_queries=11_084,
        protocol="all queries of Copenhagen and San Francisco, the paper's; not the official 740",
        paper_column="MSLS",
    ),
    "msls_val_740": _formatted(
        "msls",
        "val",
        num_database=18_871,
        num_queries=740,
        only_official_queries=True,
        protocol="the official queries that have positives, both cities searched together",
        how_to_get=_OFFICIAL_MSLS_HOW,
    ),
    "msls_test": _formatted(
        "msls", per_city=True, protocol="all queries, each searched in its own city"
    ),
    "st_lucia": _formatted(
        "st_lucia", num_database=1_549, num_queries=1_464, paper_column="St Lucia"
    ),
    "eynsham": _formatted("eynsham", num_database=23_935, num_queries=23_935),
    "nordland": _formatted(
        "nordland",
        num_database=27_592,
        num_queries=27_592,
        protocol="winter queries, summer database, 10 frames (25 mock metres)",
    ),
    "nordland_1f": _formatted(
        "nordland",
        queries="database",
        database=("queries",),
        num_database=27_592,
        num_queries=2_760,
        frames=1,
        every_nth_query=10,
        protocol="every 10th summer image as query, winter database, 1 frame",
    ),
    "nordland_2f": _formatted(
        "nordland_3450",
        num_database=3_450,
        num_queries=3_450,
        frames=2,
        protocol="3,450 winter queries, 3,450 summer images, 2 frames",
    ),
    "amstertime": _formatted(
        "amstertime",
        num_database=1_231,
        num_queries=1_231,
        protocol="one positive each: positions are mock ones, 1 km apart",
    ),
    "svox": _svox("queries", 14_278),
    "svox_night": _svox("queries_night", 823),
    "svox_overcast": _svox("queries_overcast", 872),
    "svox_rain": _svox("queries_rain", 937),
    "svox_snow": _svox("queries_snow", 870),
    "svox_sun": _svox("queries_sun", 854),
    "san_francisco": _formatted("san_francisco", num_queries=598),
    "mini_city_val": _mini_city("val"),
    "mini_city_test_v1": _mini_city("test", "queries_v1"),
    "mini_city_test_v2": _mini_city("test", "queries_v2"),
}
TRAIN_SETS = {
    "sf_xl": TrainSet(("sf_xl/processed/train",), "sf_xl_val", "sf_xl_test_v1", _SF_XL_HOW),
    "sf_xl_raw": TrainSet(("sf_xl/raw/train/database",), "sf_xl_val", "sf_xl_test_v1", _SF_XL_HOW),
    "sf_xl_panoramas": TrainSet(
        ("sf_xl/raw/train/panoramas",), "sf_xl_val", "sf_xl_test_v1", _SF_XL_HOW
    ),
    "sf_xl_small": TrainSet(
        ("sf_xl/small/train",), "sf_xl_small_val", "sf_xl_small_test", _SF_XL_HOW
    ),
    "pitts30k": _formatted_train("pitts30k", "pitts30k_val", "pitts30k"),
    "pitts250k": _formatted_train("pitts250k", "pitts250k_val", "pitts250k"),
    "msls": _formatted_train("msls", "msls_val", "msls_val"),  # its test labels were secret
    "gsv_cities": TrainSet(
        ("gsv_cities", "GSV-Cities"), "pitts30k_val", "pitts30k", _GSV_CITIES_HOW
    ),
    "mini_city": TrainSet(
        ("mini_city/processed/train",), "mini_city_val", "mini_city_test_v1", _MINI_CITY_HOW
    ),
}


def find_train_folder(name: str, datasets_folder: str | os.PathLike) -> Path:
    """Return the folder of a training set.

    Raises:
        ValueError: If the name is unknown.
        FileNotFoundError: If the folder is missing; says how to get it.
    """
    train_set = _look_up(name, TRAIN_SETS, "training set")
    places = [Path(datasets_folder).resolve() / folder for folder in train_set.folders]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        where = " or ".join(map(str, places))
        how_to_get = train_set.how_to_get.format(datasets_folder=datasets_folder)
        raise FileNotFoundError(f"The data set {name} is not at {where}\n{how_to_get}")
    return found


def find_test_set(name: str, datasets_folder: str | os.PathLike) -> tuple[Path, Path]:
    """Return the folders of the database and the queries of a test set.

    Raises:
        ValueError: If the name is unknown.
        FileNotFoundError: If a folder is missing; shows the expected tree, says how to get it.
    """
    test_set = look_up_test_set(name)
    root = Path(datasets_folder).resolve()
    places = [root / folder for folder in test_set.folders]
    found = next((place for place in places if place.is_dir()), None)
    database = found and find_database(found, test_set.database)
    if database and (found / test_set.queries).is_dir():
        return database, found / test_set.queries
    if found is None:
        missing = f"is not at {' or '.join(map(str, places))}"
    else:
        missing = f"has no {test_set.queries if database else test_set.database[0]}/ in {found}"
    tree = "\n".join(f"  {places[0]}/{part}/" for part in (test_set.database[0], test_set.queries))
    how_to_get = test_set.how_to_get.format(datasets_folder=datasets_folder)
    raise FileNotFoundError(
        f"The data set {name} {missing}\nIt is evaluated on\n{tree}\n{how_to_get}"
    )


def find_database(folder: Path, names: tuple[str, ...] = DATABASE_FOLDERS) -> Path | None:
    """Return the sub-folder with the database, if there is one."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def look_up_test_set(name: str) -> TestSet:
    """Return the description of a test set; raises a ValueError that lists similar names."""
    return _look_up(name, TEST_SETS, "test set")


def _look_up(name: str, table: Mapping[str, Any], kind: str) -> Any:
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}? All are: " if near else "choose from "
    raise ValueError(f"Unknown {kind} '{name}': {hint}{', '.join(table)}")


def describe_counts(test_set: TestSet, num_database: int, num_queries: int) -> list[str]:
    """Return a sentence for each count that differs from the known one."""
    counts = (
        ("database images", num_database, test_set.num_database),
        ("queries", num_queries, test_set.num_queries),
    )
    return [
        f"{count:,} {what}, expected {expected:,}: recalls may not compare with published ones"
        for what, count, expected in counts
        if expected not in (None, count)
    ]
