"""Find where photos were taken: the places of the most similar images of a database.

python localize.py PHOTO_OR_FOLDER ... --resume model.pth --database IMAGES --save_place_index INDEX
python localize.py PHOTO_OR_FOLDER ... --resume model.pth --place_index INDEX
python localize.py PHOTO_OR_FOLDER ... --resume model.pth --place_index INDEX --csv - | sort
python localize.py PHOTO_OR_FOLDER ... --resume model.pth --place_index INDEX --calibration FILE

The first call extracts the descriptors of a folder of images with '@' names and saves them; the
second one no longer needs the images.
"""

import packages  # first: says which package of those below is missing

if __name__ == "__main__":  # before torch is imported, which takes seconds
    import stops

    stops.begin()

    import machine
    from parser import parse_localize_arguments

    machine.prepare()
    parse_localize_arguments()  # ends here for --help and for flags that are wrong

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import commons
import machine
from datasets.image_lists import ImagePaths, list_images, list_photos
from datasets.positions import read_positions
from evaluation.calibration import Calibration, describe_origin, load_calibration
from evaluation.descriptors import Inference, Model, extract_descriptors
from evaluation.localization import Localization, localize
from evaluation.place_index import (
    PlaceIndex,
    check_place_index_folder,
    load_place_index,
    save_place_index,
)
from evaluation.rerank import open_reranker
from evaluation.search import build_index, check_fits, check_search, choose_search
from evaluation.views import View
from model.inference import optimize
from model.other_models import identify, load_model, parse_model_spec
from model.resizing import choose_resize, parse_resize
from parser import parse_localize_arguments
from reports.maps import draw_place_map
from reports.places import (
    format_localization,
    map_photo,
    print_places,
    printable,
    write_geojson,
    write_places,
)
from reports.planes import find_planes
from runs.folders import run_folder
from runs.provenance import describe_software, record_start
from runs.signals import StopSignals


def main(argv: Sequence[str] | None = None) -> None:
    """Localize photos; print their places and write tables and a map."""
    args = parse_localize_arguments(argv)
    quiet = args.quiet or args.csv == "-"
    commons.setup_logging(quiet=quiet)
    software = describe_software()
    with commons.usage_errors():
        parse_resize(args.resize or "none")
        if args.model:
            parse_model_spec(args.model)
        check_search(args.search)
        device = machine.choose_device(args.device)
        reranker = open_reranker(args.rerank, args.rerank_k, args.io_retries)
    photos = list_photos(args.photos)
    if args.save_place_index:
        check_place_index_folder(args.save_place_index)
    model, model_facts = load_model(args.resume_model, args.model)
    if args.place_index:
        place_index = open_place_index(args.place_index, model_facts, reranker is not None)
        database_resize = place_index.metadata["resize"]
    else:
        database = list_database(args.database, args.search, model)
        database_resize = choose_resize(args.resize, None, model) or "none"
    calibration = open_calibration(
        args.calibration,
        model_facts | {"resize": database_resize, "rerank": reranker and reranker.describe()},
    )
    with (
        StopSignals("Start again", can_resume=False),
        run_folder(args.save_dir, "localize", vars(args)) as folder,
    ):
        commons.setup_logging(folder, quiet)
        record_start(folder, device)
        extractor = optimize(model.to(device))
        inference = Inference(
            device,
            args.infer_batch_size,
            args.num_workers,
            io_retries=args.io_retries,
            show_progress=not quiet,
        )
        if args.database:
            place_index = index_database(
                extractor,
                database,
                args.search,
                inference,
                model_facts | software | {"resize": database_resize},
            )
        if args.save_place_index:
            save_place_index(args.save_place_index, place_index)
            logging.info(f"The place index is in {args.save_place_index}")
        resize = args.resize or database_resize
        say_how(resize, database_resize, calibration)
        logging.info(f"Searching for {commons.plural(len(photos), 'photo')} among {place_index}")
        inference = dataclasses.replace(inference, skip_unreadable=args.skip_unreadable)
        photos, descriptors = extract_photos(extractor, photos, resize, inference)
        localizations = localize(
            place_index,
            list(photos),
            descriptors,
            args.top_k,
            args.positive_dist_threshold,
            calibration,
            args.min_confidence,
            reranker,
        )
        write_run(folder, place_index, localizations, args.csv)


def extract_photos(
    model: Model, photos: ImagePaths, resize: str, inference: Inference
) -> tuple[ImagePaths, np.ndarray]:
    """Return the readable photos and their descriptors; warn of those that are skipped."""
    extraction = extract_descriptors(model, photos, View(resize), inference, "Photos")
    for index in extraction.unreadable:
        logging.warning(f"Skipped, it cannot be read: {photos[index]}")
    readable = extraction.readable
    return photos.subset(readable), extraction.descriptors[readable]


def open_place_index(folder: str, model_facts: dict[str, Any], with_images: bool) -> PlaceIndex:
    """Open a place index and check what else it needs.

    Args:
        folder: Of the place index.
        model_facts: Of the model that photos are extracted by.
        with_images: Whether the images of the database must be there, too.

    Raises:
        FileNotFoundError: If they are not.
        ValueError: If it was made with another model, or its names lack positions.
    """
    place_index = load_place_index(folder)
    made_with = place_index.metadata
    if identify(made_with) != identify(model_facts):
        raise ValueError(
            f"This place index was made with the model {made_with['model']} (SHA-256 "
            f"{str(made_with['model_sha256'])[:12]}), not with {model_facts['model']} (SHA-256 "
            f"{str(model_facts['model_sha256'])[:12]}): give that model, or make the place index "
            "again"
        )
    if with_images and not os.path.isfile(place_index.paths[0]):
        raise FileNotFoundError(
            "--rerank compares photos with the images of the database, and there is no "
            f"{place_index.paths[0]}: bring them back, or leave --rerank out"
        )
    _ = place_index.positions_m
    return place_index


def open_calibration(file: str | None, facts: dict[str, Any]) -> Calibration | None:
    """Read a calibration, if there is one, and check that it is of this model."""
    return None if file is None else load_calibration(file, describe_origin(facts))


def say_how(resize: str, database_resize: str, calibration: Calibration | None) -> None:
    """Say what confidences are; warn if photos are resized by another rule than the database."""
    if resize != database_resize:
        logging.warning(
            f"Photos are resized by the rule '{resize}', the database was by '{database_resize}': "
            "descriptors may not compare"
        )
    if calibration is None:
        logging.info("Confidences are a heuristic: python -m tools.calibrate fits probabilities")
        return
    logging.info(
        f"Confidences are probabilities of a distance of at most {calibration.threshold_m:g} m, "
        f"calibrated on {calibration.facts.get('num_queries')} queries of "
        f"{calibration.facts.get('dataset')}"
    )


def list_database(folder: str, search: str, model: Model) -> ImagePaths:
    """List database images and check, before they are extracted, what a place index needs.

    Raises:
        ValueError: If names lack positions, or the search does not suit so many images.
    """
    database = list_images(folder)
    if database.left_out:
        logging.warning(database.left_out)
    read_positions(database, database.subset(slice(0)))
    if hasattr(model, "out_dim"):  # other models: known with the first descriptor
        check_fits(search, len(database), model.out_dim)
    return database


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


def write_run(
    folder: Path,
    place_index: PlaceIndex,
    localizations: Sequence[Localization],
    table: str | None = None,
) -> None:
    """Write the places of each photo as CSV, GeoJSON and a map, and print them.

    Args:
        folder: Of the run.
        place_index: What was searched.
        localizations: One a photo.
        table: A second file for the CSV; "-" for stdout.
    """
    write_places(localizations, folder / "places.csv")
    num_points = write_geojson(localizations, folder / "places.geojson")
    if num_points < len(localizations):
        logging.info(
            f"{len(localizations) - num_points} photos are not in places.geojson: the names of the "
            "database images have neither latitude and longitude nor a UTM zone with its letter"
        )
    photos_shown = commons.plural(len(localizations), "photo")
    title = f"{photos_shown} among {commons.plural(len(place_index.paths), 'database image')}"
    has_map = write_map(folder / "map.html", title, place_index, localizations)
    for localization in localizations:
        logging.info(printable(format_localization(localization)) + "\n")
    verdicts = [localization.is_in_database for localization in localizations]
    if known := [verdict for verdict in verdicts if verdict is not None]:
        logging.info(
            f"{known.count(False):,} of {len(verdicts):,} photos are taken to be not in the "
            f"database: their confidence is below {localizations[0].min_confidence:.2f}"
        )
    if table == "-":
        print_places(localizations)
    elif table:
        write_places(localizations, Path(table))
    logging.info(f"Places {'and a map ' * has_map}are in {folder}")


def write_map(
    file: Path, title: str, place_index: PlaceIndex, localizations: Sequence[Localization]
) -> bool:
    """Draw the map of `write_run`; return False, with a warning, if what draws it is missing."""
    planes = find_planes(place_index.paths, place_index.positions_m)
    photos = [map_photo(localization, planes) for localization in localizations]
    try:
        page = draw_place_map(title, place_index.positions_m, photos, planes)
    except ImportError as error:
        if not (sentence := packages.explain_import_error(error)):
            raise
        logging.warning(f"No map is written. {sentence}")
        return False
    with commons.atomic_write(file) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return True


if __name__ == "__main__":
    commons.run_command(main)
