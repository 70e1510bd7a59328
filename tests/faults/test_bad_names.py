"""Names of files from strangers: they are shown as they are, and lead nowhere else."""

import csv
import json
import os
import subprocess
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import name, write_image
from PIL import Image
from training_runs import SMALL

import eval as evaluation_command
import localize
import train
from datasets.class_index import load_index
from datasets.image_lists import list_images, walk_images
from datasets.partition import PartitionParams
from reports import compare
from tools.check import __main__ as check

PARAMS = PartitionParams(N=2, L=1, min_images_per_class=1)
UNTRAINED = (
    *("--untrained", "--backbone=Tiny", "--backbone_weights=none", "--fc_output_dim=8"),
    "--device=cpu",
)

ODD = [
    "plain",
    "<img src=x onerror=alert(1)>",
    '" onerror="alert(1)" x="',
    "' onmouseover='alert(1)",
    "&lt;b&gt;&amp;&#60;script&#62;",
    "{{ 7 * 7 }}{% raw %}${7*7}%s%n",
    "--><svg onload=alert(1)>",
    "  spaces  ",
    '=1+1,;"quoted"',
    "\u202eesrever\u2028\u0085\x1b[31mred\x07",
    "@@@",
    os.fsdecode(b"caf\xe9 \xff\xfe"),
    "\\u003cscript\\u003e\\",
    "L",  # as many as fit into 255 bytes
]
FOLDERS = ("", "<script>alert(1)<", " lead/trail ", "a@b")
STARTS = ("", "script>", "", "")


def write_set(folder, notes):
    """Write two images for each note, in folders that are as odd."""
    for number, note in enumerate(notes * 2):
        place = number % len(FOLDERS)
        start, sub_folder = (
            ("", f"{place}") if notes is not ODD else (STARTS[place], FOLDERS[place])
        )
        fields = {"zone_number": 32, "zone_letter": "U", "latitude_deg": 45, "longitude_deg": 9}
        file = start + name(1000 + 10 * number, 5_000_000, 30, note=note, **fields)
        if note == "L":
            file = file.replace("L", "L" * (256 - len(file)))
        (folder / sub_folder).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng((number, len(folder.name))).integers(0, 256, (24, 32, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / sub_folder / file)
    return folder


class Tags(HTMLParser):
    """Counts elements with the names of their attributes, and keeps what may be executed."""

    def __init__(self, page):
        super().__init__()
        self.found, self.active = Counter(), []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found[tag, tuple(key for key, _ in attributes)] += 1
        self.active += [key for key, _ in attributes if key.startswith("on")]
        self.active += [
            value
            for key, value in attributes
            if key in ("src", "href") and not value.startswith(("data:image/", "data:,", "#"))
        ]


@pytest.fixture(scope="module")
def pages(tmp_path_factory, model_file):
    """Evaluate, compare and localize with odd names, and with plain ones.

    Returns the folder that holds odd/ and plain/, and {page: (odd text, plain text)}.
    """
    root = tmp_path_factory.mktemp("names")
    for kind, notes in (("odd", ODD), ("plain", [f"n{number}" for number in range(len(ODD))])):
        folder = root / kind
        for role in ("database", "queries"):
            write_set(folder / "set" / role, notes)
        flags = [f"--resume={model_file}", "--device=cpu", "--num_workers=0"]
        evaluated = [f"--test_set_folder={folder / 'set'}", "--num_preds_to_save=3"]
        first = [f"--save_dir={folder / 'first'}", f"--save_place_index={folder / 'index'}"]
        evaluation_command.main([*flags, *evaluated, *first])
        second = [*UNTRAINED, "--num_workers=0", "--seed=3", f"--save_dir={folder / 'second'}"]
        evaluation_command.main([*evaluated, *second])
        runs = [str(folder / "first"), str(folder / "second")]
        compare.main([*runs, f"--out={folder / 'compared'}"])
        place = [f"--place_index={folder / 'index'}", f"--save_dir={folder / 'localized'}"]
        localize.main([str(folder / "set" / "queries"), *flags, *place])
    files = ("first/report.html", "compared/comparison.html", "localized/map.html")
    return root, {
        file: [(root / kind / file).read_text(encoding="utf-8") for kind in ("odd", "plain")]
        for file in files
    }


@pytest.mark.parametrize(
    "file", ["first/report.html", "compared/comparison.html", "localized/map.html"]
)
def test_names_add_nothing_to_a_page_that_is_executed(pages, file):
    """A page with odd names has the elements and attributes of one with plain names."""
    odd, plain = map(Tags, pages[1][file])
    assert odd.found == plain.found and len(odd.found) > 15
    assert odd.active == plain.active
    assert set(odd.active) <= {"https://www.openstreetmap.org/copyright"}  # beside streets


def test_names_are_in_the_files_of_a_run_as_they_are(pages):
    folder = pages[0] / "odd"
    images = {role: set(list_images(folder / "set" / role)) for role in ("database", "queries")}
    assert len(images["queries"]) == 2 * len(ODD)
    text = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
    with open(folder / "first" / "predictions.csv", **text) as file:
        rows = list(csv.DictReader(file))
    assert {row["query"] for row in rows} == images["queries"]
    assert {row["prediction"] for row in rows} <= images["database"]
    assert len(os.listdir(folder / "first" / "preds")) == 2 * len(ODD)
    with open(folder / "localized" / "places.csv", **text) as file:
        assert {row["photo"] for row in csv.DictReader(file)} == images["queries"]
    features = json.loads((folder / "localized" / "places.geojson").read_text())["features"]
    assert {feature["properties"]["photo"] for feature in features} == images["queries"]


def test_odd_names_are_checked_and_trained_on(pages, tmp_path, capfd):
    folder = pages[0] / "odd" / "set"
    check.main([str(folder), "--decode", "--num_workers=0"])
    small = [flag for flag in SMALL if flag.partition("=")[0] not in ("--groups_num", "--M")]
    train.main(
        [
            *small,
            *(f"--{role}_set_folder={folder}" for role in ("val", "test")),
            *(f"--train_set_folder={folder / 'database'}", "--min_images_per_class=1"),
            *("--groups_num=1", "--epochs_num=1", "--N=1", "--L=1"),
            *(f"--cache_folder={tmp_path / 'cache'}", f"--save_dir={tmp_path / 'run'}"),
        ]
    )
    assert (tmp_path / "run" / "best_model.pth").is_file()
    index = load_index(folder / "database", PARAMS, tmp_path / "cache")
    listed = {index.path(image) for image in range(len(index.image_offsets))}
    assert listed == set(list_images(folder / "database")) and all(map(os.path.isfile, listed))
    assert "Logging error" not in capfd.readouterr().err


def test_names_that_would_break_a_list_are_refused_by_all(tmp_path, refused):
    for role in ("database", "queries"):
        write_image(tmp_path / "set" / role / name(1, 2, 3, note="a\nb"))
    flags = [*UNTRAINED, f"--test_set_folder={tmp_path / 'set'}"]
    said = refused(evaluation_command.main, flags, 1)
    assert "1 image names contain a newline" in said and r"a\nb" in said
    assert "error" in refused(check.main, [str(tmp_path / "set"), "--num_workers=0"], 1)


def test_loops_of_links_end(tmp_path):
    write_image(tmp_path / "set" / "a" / "b" / "1.jpg")
    (tmp_path / "set" / "a" / "b" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "a" / "x").symlink_to(tmp_path / "set" / "a" / "y")
    (tmp_path / "set" / "a" / "y").symlink_to(tmp_path / "set" / "a" / "x")
    (tmp_path / "set" / "self.jpg").symlink_to(tmp_path / "set" / "self.jpg")
    assert walk_images(tmp_path / "set")[0] == b"a/b/1.jpg\nself.jpg\n"


def test_folders_may_be_deep(tmp_path):
    """Deeper than functions may call each other."""
    deep = os.path.join(tmp_path, "set", *["d"] * 1500)
    subprocess.run(["mkdir", "-p", deep], check=True)
    with open(os.path.join(deep, "1.jpg"), "wb"):
        pass
    try:
        assert walk_images(tmp_path / "set")[0] == b"d/" * 1500 + b"1.jpg\n"
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "set"], check=True)


def test_the_name_of_a_folder_may_be_as_long_as_can_be(tmp_path):
    folder = tmp_path / ("\u00e9" * 127 + "x")
    for number in range(2):
        write_image(folder / name(1, 2, 3, pano_id=f"{number}"))
    assert len(list_images(folder)) == 2
    index = load_index(folder, PARAMS, tmp_path / "cache")
    assert index.path(0) == list_images(folder)[0]
