"""Pictures of where a network's descriptor looks in images.

python -m reports.attention RUN                   queries of a run's report, and their top-1
python -m reports.attention model.pth PHOTOS      any images, files or folders
python -m reports.attention cosplace:ResNet50:512 PHOTOS --out FOLDER

RUN is the folder of an evaluation: pictures are in RUN/attention, and report.html is written again
with them. Each picture has the image beside the heat map over it; attention.csv says what was drawn
and by which network, maps.npz has the maps. docs/models.md says what the maps are.
"""

import csv
import inspect
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

import commons
from command_line import CommandLine
from datasets.image_lists import list_photos
from datasets.tables import TABLE, read_json, write_table
from reports.report import NUM_GALLERY, write_report
from reports.runs import find_set

if TYPE_CHECKING:  # what takes seconds to import is imported where it is used, after --help
    from torch import nn

    from evaluation.views import View
    from reports.run_files import RunArrays

_UNTRAINED, _WHOLE = "the untrained network", "as the database"  # in results.json
_OF_OTHERS = ("hub:", "torchscript:", "onnx:", "whitened:")


class Source(NamedTuple):
    """A network, and what says which one it is."""

    network: "nn.Module"
    facts: dict[str, Any]  # model, model_sha256 and more
    resize: str | None  # rule of the run; None: that of the network


class Subject(NamedTuple):
    """An image to draw."""

    name: str  # of the picture, without its ending
    image: str  # path


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the pictures; of a run, write the report again."""
    cli = CommandLine(prog="python -m reports.attention", description=__doc__.splitlines()[0])
    add = cli.add_argument
    add(
        "source",
        metavar="RUN|MODEL",
        help="folder of an evaluation of one set; a checkpoint; or the name of a published "
        "network, as for eval.py --model",
    )
    add(
        "images",
        metavar="IMAGES",
        nargs="*",
        help="files and folders (default: of a RUN, queries of its report and their top-1 "
        "predictions)",
    )
    add(
        "--num_queries",
        type=int,
        default=NUM_GALLERY,
        metavar="N",
        help="of a RUN: the most confident wrong ones and correct ones, half of each (default: "
        f"{NUM_GALLERY})",
    )
    add(
        "--resize_test_imgs",
        metavar="RULE",
        help="as of eval.py (default: that of the RUN, or else of the network)",
    )
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where to; one that this command wrote is replaced (default: RUN/attention, or "
        "attention)",
    )
    args = cli.parse_args(argv)
    if args.num_queries < 1:
        cli.error(f"--num_queries must be at least 1, it is {args.num_queries}")
    from reports.overlays import FOLDER
    from reports.run_files import read_run_arrays

    if not os.path.isdir(args.source):
        if not args.images:
            cli.error(f"{args.source} is no folder of a run: a network needs IMAGES to look at")
        source, pictures = open_model(args.source), list_pictures(args.images)
        write_pictures(source, pictures, args.resize_test_imgs, args.out or Path(FOLDER))
        return

    folder = find_set(Path(args.source))
    run = read_run_arrays(folder)
    pictures = list_pictures(args.images) or list_chosen(run, args.num_queries)
    if (method := run.results.get("test_method", _WHOLE)) != _WHOLE:
        logging.warning(f"The run saw its queries by {method}; here all images are seen whole")
    out = args.out or folder / FOLDER
    write_pictures(open_run(folder, run.results), pictures, args.resize_test_imgs, out)
    logging.info(f"The report is {write_report(folder)}")


def open_model(source: str) -> Source:
    """Open a checkpoint or a published network.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no network of ours.
    """
    from model.other_models import FAMILIES, load_model, parse_model_spec

    is_file = os.path.isfile(source) or source.endswith((".pth", ".pt", ".safetensors"))
    is_file = is_file and not source.startswith(_OF_OTHERS) and not source.endswith(".py")
    if is_file:
        return Source(*load_model(source, None), None)
    if parse_model_spec(source).kind not in FAMILIES:
        raise _of_others(source)
    return Source(*load_model(None, source), None)


def _of_others(name: str) -> ValueError:
    return ValueError(
        f"{name} is a model of others, which does not show its maps: where a descriptor looks is "
        "seen in networks of ours and published ones, by checkpoint or by name"
    )


def open_run(folder: Path, results: dict[str, Any]) -> Source:
    """Open the network of a run.

    Args:
        folder: Of the run.
        results: Content of its results.json.

    Raises:
        FileNotFoundError: If its file is gone.
        ValueError: If it is another by now, or none of ours.
    """
    from model.other_models import load_model

    name, file = results.get("model"), results.get("model_file")
    if name == _UNTRAINED:
        return Source(build_untrained(folder, results), results, results["resize"])
    if not file:
        raise _of_others(f"{name}, which {folder} evaluated,")
    candidates = [Path(file), *(place / Path(file).name for place in (folder, folder.parent))]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"The model that {folder} evaluated is gone, {file}: put it into that folder"
        )
    if commons.sha256_of(found) != results.get("model_sha256"):
        raise ValueError(
            f"{found} is not the model that {folder} evaluated, its SHA-256 is another: put the "
            "right one into that folder, or evaluate again"
        )
    return Source(load_model(str(found), None)[0], results, results["resize"])


def build_untrained(folder: Path, results: dict[str, Any]) -> "nn.Module":
    """Build the network before training that a run evaluated, by the seed and flags of the run.

    Raises:
        FileNotFoundError: If there is no args.json.
        ValueError: If it comes out otherwise, as with other versions of packages.
    """
    from model.network import build_network, choose_architecture
    from model.other_models import hash_tensors

    files = [place / "args.json" for place in (folder, folder.parent)]
    flags = read_json(next(filter(Path.is_file, files), files[0]))
    names = inspect.signature(choose_architecture).parameters
    architecture = {name: results[name] for name in names if name in results}
    commons.seed_everything(results["seed"])
    weights = flags.get("backbone_weights", "imagenet")
    network = build_network(**architecture, backbone_weights=weights).eval()
    if hash_tensors(network) != results["model_sha256"]:
        raise ValueError(
            f"The untrained network that {folder} evaluated has other weights here: save one as a "
            "checkpoint, by train.py --epochs_num 0, and evaluate that"
        )
    return network


def list_pictures(given: Sequence[str]) -> list[Subject]:
    """List images given as files or as folders; raises like `list_photos`."""
    return [Subject(f"{number:05d}", path) for number, path in enumerate(list_photos(given))]


def list_chosen(run: "RunArrays", num_queries: int) -> list[Subject]:
    """List queries as the report of a run chooses them, and the top-1 prediction of each."""
    from reports.report_page import choose_queries

    pictures = []
    for query in choose_queries(run, num_queries).tolist():
        pictures.append(Subject(f"{query:05d}_query", run.queries[query]))
        pictures.append(Subject(f"{query:05d}_top1", run.predictions[query][0]))
    return pictures


def write_pictures(
    source: Source, pictures: Sequence[Subject], resize: str | None, out: Path
) -> None:
    """Draw images and write them into a folder, with their table and the maps.

    Images that cannot be read, or are too small for the network, are left out, with a warning.

    Args:
        source: The network.
        pictures: What to draw.
        resize: A rule, instead of that of the run or the network.
        out: Where to; a folder that this command wrote is replaced, if it holds nothing else.

    Raises:
        FileExistsError: If the folder holds other files.
        ValueError: If no image can be drawn, or the network does not show where it looks.
    """
    from evaluation.views import View
    from model.resizing import choose_resize
    from reports.overlays import COLUMNS, MAPS_FILE, TABLE_FILE

    if out.exists() and (not out.is_dir() or _find_others(out)):
        raise FileExistsError(f"{out} holds other files: give another --out")
    is_ours = out.exists()
    rule = resize or source.resize or choose_resize(None, None, source.network) or "none"
    view, rows, maps, failed = View(rule), [], {}, []
    with commons.atomic_folder(out, overwrite=is_ours) as folder:
        for picture in tqdm(pictures, desc="Pictures", unit="img"):
            try:
                rows += draw_picture(source, view, picture, folder, maps)
            except (FileNotFoundError, ValueError) as error:
                name = "" if picture.image in str(error) else f"{picture.image}: "
                failed.append(f"{name}{error}")
        if not rows:
            raise ValueError(f"No image can be drawn, of {len(pictures):,}; {failed[0]}")
        for sentence in failed:
            logging.warning(f"Left out: {sentence}")
        np.savez_compressed(folder / MAPS_FILE, **maps)
        write_table(folder / TABLE_FILE, COLUMNS, rows)
    logging.info(
        f"{commons.plural(len({row[0] for row in rows}), 'picture')} of {rows[0][7]}, images "
        f"{view}, and {TABLE_FILE} are in {out}"
    )


def _find_others(folder: Path) -> list[str]:
    """Return the files of a folder that this command did not write."""
    from reports.overlays import MAPS_FILE, TABLE_FILE

    own = {TABLE_FILE, MAPS_FILE}
    if (folder / TABLE_FILE).is_file():
        with open(folder / TABLE_FILE, **TABLE) as file:
            own |= {row[0] for row in csv.reader(file) if row}
    return sorted(set(os.listdir(folder)) - own)


def draw_picture(
    source: Source, view: "View", picture: Subject, folder: Path, maps: dict[str, np.ndarray]
) -> list[tuple]:
    """Draw one image into a file; return its rows of the table.

    Args:
        source: The network.
        view: What it sees of the image.
        picture: What to draw.
        folder: For the file.
        maps: Get the heat maps.

    Raises:
        FileNotFoundError: If there is no such image.
        ValueError: If it cannot be read, or the network cannot take it.
    """
    from PIL import Image

    from datasets.images import load_image
    from reports.heat_maps import heat_maps
    from reports.overlays import draw_sheet, find_peak, key_of
    from reports.pictures import name_image

    pixels = load_image(picture.image)
    images = view(pixels[None])[:, 0]
    seen = heat_maps(source.network, images)
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    file = f"{picture.name}.jpg"
    sheet = draw_sheet(image, name_image(picture.image), seen.kind, seen.maps)
    sheet.save(folder / file, quality=90)
    rows = []
    for layer, heat in seen.maps.items():
        maps[key_of(file, layer)] = heat
        peak = find_peak(heat, image.size)
        rows.append(
            (
                *(file, picture.image, image.height, image.width, *images.shape[2:]),
                *(layer, seen.kind, *heat.shape, f"{heat.sum():.6g}", f"{peak.over_mean:.3f}"),
                *(f"{peak.x:.1f}", f"{peak.y:.1f}", view.resize),
                *(source.facts.get("model"), source.facts.get("model_sha256")),
            )
        )
    return rows


if __name__ == "__main__":
    commons.run_command(main)
