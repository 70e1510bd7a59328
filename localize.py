"""Find where photos were taken: the places of the most similar images of a database.

python localize.py PHOTO_OR_FOLDER ... --resume model.pth --database IMAGES --save_place_index INDEX
python localize.py PHOTO_OR_FOLDER ... --resume model.pth --place_index INDEX

The first call extracts the descriptors of a folder of images with '@' names and saves them; the
second one no longer needs the images.
"""

import argparse
import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import commons
from datasets.image_lists import ImagePaths, image_paths_of, list_images
from datasets.positions import read_positions
from evaluation.descriptors import Inference, Model, extract_descriptors
from evaluation.localization import Localization, localize
from evaluation.place_index import (
    PlaceIndex,
    check_place_index_folder,
    load_place_index,
    save_place_index,
)
from evaluation.search import EXACT, build_index, check_fits, check_search, choose_search
from evaluation.views import View, parse_resize
from model.inference import optimize
from model.network import choose_resize
from model.other_models import identify, load_model, parse_model_spec
from parser import not_negative_int, positive_float, positive_int
from reports.maps import MapPhoto, MapPoint, draw_place_map, make_thumbnail
from reports.places import (
    describe_agreement,
    format_localization,
    format_place,
    printable,
    write_geojson,
    write_places,
)
from runs.folders import run_folder
from runs.provenance import describe_software, record_start
from runs.signals import StopSignals


def main(argv: Sequence[str] | None = None) -> None:
    """Localize photos; print their places and write tables and a map."""
    args = _parse_arguments(argv)
    software = describe_software()
    with commons.usage_errors():
        parse_resize(args.resize or "none")
        if args.model:
            parse_model_spec(args.model)
        check_search(args.search)
        device = commons.choose_device(args.device)
    photos = list_photos(args.photos)
    if args.save_place_index:
        check_place_index_folder(args.save_place_index)
    model, model_facts = load_model(args.resume_model, args.model)
    model = model.to(device)
    if args.place_index:
        place_index = load_place_index(args.place_index)
        check_model(place_index, model_facts)
        _ = place_index.positions_m  # now, so that errors show at once
    else:
        database = list_images(args.database)
        read_positions(database, database.subset(slice(0)))  # as above
        if hasattr(model, "out_dim"):  # other models: known with the first descriptor
            check_fits(args.search, len(database), model.out_dim)
    with (
        StopSignals("Start again", can_continue=False),
        run_folder(args.save_dir, "localize", vars(args)) as folder,
    ):
        commons.setup_logging(folder)
        record_start(folder, device)
        extractor = optimize(model)
        inference = Inference(
            device, args.infer_batch_size, args.num_workers, io_retries=args.io_retries
        )
        if args.database:
            resize = choose_resize(args.resize, None, model) or "none"
            metadata = model_facts | software | {"resize": resize}
            place_index = index_database(extractor, database, args.search, inference, metadata)
        if args.save_place_index:
            save_place_index(args.save_place_index, place_index)
            logging.info(f"The place index is in {args.save_place_index}")
        resize = args.resize or place_index.metadata["resize"]
        if resize != place_index.metadata["resize"]:
            logging.warning(
                f"Photos are resized by the rule '{resize}', the database was by "
                f"'{place_index.metadata['resize']}': descriptors may not compare"
            )
        logging.info(f"Searching for {len(photos):,} photos among {place_index}")
        skipping = dataclasses.replace(inference, skip_unreadable=args.skip_unreadable)
        photos, descriptors = extract_photos(extractor, photos, resize, skipping)
        localizations = localize(
            place_index, list(photos), descriptors, args.top_k, args.positive_dist_threshold
        )
        write_run(folder, place_index, localizations)


def list_photos(given: Sequence[str]) -> ImagePaths:
    """List photos given as files or as folders, which are searched like those of a database.

    Raises:
        FileNotFoundError: If one does not exist, or a folder has no image.
    """
    files: list[str] = []
    for path in given:
        files += list_images(path) if os.path.isdir(path) else [path]
    return image_paths_of(files)


def extract_photos(
    model: Model, photos: ImagePaths, resize: str, inference: Inference
) -> tuple[ImagePaths, np.ndarray]:
    """Return the readable photos and their descriptors; warn of those that are skipped."""
    extraction = extract_descriptors(model, photos, View(resize), inference, "Photos")
    for index in extraction.unreadable:
        logging.warning(f"Skipped, it cannot be read: {photos[index]}")
    readable = extraction.readable
    return photos.subset(readable), extraction.descriptors[readable]


def check_model(place_index: PlaceIndex, model_facts: dict[str, Any]) -> None:
    """Raise a ValueError if a place index was made with another model."""
    made_with = place_index.metadata
    if identify(made_with) != identify(model_facts):
        raise ValueError(
            f"This place index was made with the model {made_with['model']} (SHA-256 "
            f"{str(made_with['model_sha256'])[:12]}), not with {model_facts['model']} (SHA-256 "
            f"{str(model_facts['model_sha256'])[:12]}): give that model, or make the index again"
        )


def index_database(
    model: Model,
    database: ImagePaths,
    search: str,
    inference: Inference,
    metadata: dict[str, Any],
) -> PlaceIndex:
    """Extract the descriptors of database images and index them.

    Raises:
        ValueError: If an image cannot be read, or the search does not suit the database.
    """
    extraction = extract_descriptors(
        model, database, View(metadata["resize"]), inference, "Database"
    )
    search = choose_search(search, *extraction.descriptors.shape)
    index = build_index(extraction.descriptors, search)
    facts = {"dataset": str(database.folder), "image_sizes": extraction.image_sizes}
    return PlaceIndex(index, search, database, metadata | facts)


def write_run(folder: Path, place_index: PlaceIndex, localizations: Sequence[Localization]) -> None:
    """Print the places of each photo and write them as CSV, GeoJSON and a map."""
    for localization in localizations:
        logging.info(printable(format_localization(localization)) + "\n")
    write_places(localizations, folder / "places.csv")
    num_points = write_geojson(localizations, folder / "places.geojson")
    if num_points < len(localizations):
        logging.info(
            f"{len(localizations) - num_points} photos are not in places.geojson: the names of the "
            "database images have neither latitude and longitude nor a UTM zone with its letter"
        )
    title = f"{len(localizations):,} photos among {len(place_index.paths):,} database images"
    photos = [_map_photo(localization) for localization in localizations]
    page = draw_place_map(title, place_index.positions_m, photos)
    with commons.atomic_write(folder / "map.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    logging.info(f"Places and a map are in {folder}")


def _map_photo(localization: Localization) -> MapPhoto:
    points = [MapPoint(p.rank, p.position_m, format_place(p)) for p in localization.places]
    label, text = os.path.basename(localization.photo), describe_agreement(localization)
    return MapPhoto(label, text, make_thumbnail(localization.photo), points)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = cli.add_argument
    add("photos", nargs="+", metavar="PHOTO_OR_FOLDER", help="photos, or folders of them")
    models = cli.add_mutually_exclusive_group(required=True)
    models.add_argument(
        "--resume",
        "--resume_model",
        dest="resume_model",
        metavar="CHECKPOINT",
        help="weights of a whole network, ours or published",
    )
    models.add_argument("--model", metavar="SPEC", help="any other model, as of eval.py")
    add("--place_index", metavar="INDEX", help="folder written by --save_place_index, to search")
    add("--database", metavar="IMAGES", help="images with '@' names to search, instead of an index")
    add(
        "--save_place_index", metavar="INDEX", help="save descriptors and names of --database there"
    )
    add(
        "--search",
        default=EXACT,
        metavar="{exact,fp16,ivf_pq,FACTORY}",
        help="how --database is searched: exact, fp16 (half the memory), ivf_pq, or a factory "
        "string of faiss, with parameters as in 'IVF1024,Flat;nprobe=32' (default: exact)",
    )
    add("--top_k", type=positive_int, default=5, help="places a photo (default: 5)")
    add(
        "--positive_dist_threshold",
        type=positive_float,
        default=25.0,
        help="largest distance within one place in the confidence, in metres (default: 25)",
    )
    add(
        "--resize",
        metavar="{none,SIDE,HxW}",
        help="resize photos: shorter side in pixels, or height x width (default: as the place "
        "index; for --database the square of their size for networks that have one, else none)",
    )
    add("--infer_batch_size", type=positive_int, default=16, help="images per batch (default: 16)")
    add("--device", choices=("auto", "cuda", "cpu", "mps"), default="auto", help="where to compute")
    add(
        "--num_workers",
        type=not_negative_int,
        default=min(8, os.cpu_count() or 1),
        help="loader processes (default: number of cores, at most 8)",
    )
    add(
        "--io_retries",
        type=not_negative_int,
        default=3,
        metavar="N",
        help="how often the read of an image that failed is tried again, after growing pauses "
        "(default: 3)",
    )
    add("--skip_unreadable", action="store_true", help="skip photos that cannot be read")
    add("--save_dir", help="folder of this run (default: logs/localize_<time>)")
    args = cli.parse_args(argv)
    if bool(args.place_index) == bool(args.database):
        cli.error("say where to search: either --place_index INDEX or --database IMAGES")
    if args.place_index and (args.save_place_index or args.search != EXACT):
        cli.error("--save_place_index and --search go with --database: an index has its own search")
    return args


if __name__ == "__main__":
    commons.run_command(main)
