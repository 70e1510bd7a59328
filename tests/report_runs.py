"""Folders of evaluations as eval.py leaves them, small, with images."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from conftest import name, write_image

from datasets.tables import write_table
from evaluation.results import PREDICTIONS_COLUMNS
from reports.overlays import COLUMNS, FOLDER, MAPS_FILE, TABLE_FILE
from reports.runs import iterate_queries

ORIGIN_M = (550000.0, 4180000.0)
THRESHOLD_M = 25.0
CSV_RANKS = 5  # fewer than predictions.npz holds


def write_run(
    folder: Path,
    num_queries: int = 8,
    k: int = 12,
    labels: bool = True,
    zone: tuple[int | None, str] = (None, ""),
    **results: Any,
) -> Path:
    """Write results.json, predictions.csv, predictions.npz and the images that they name.

    Queries 0, 2, 4 ... are found at once. Of the others, the last one is found never, the others
    at rank 3. Query q was taken in the year 2010 + q // 2, and looks 20 degrees times q away from
    its first prediction.
    """
    arrays = make_arrays(num_queries, k)
    correct = arrays["correct"]
    if not labels:
        del arrays["correct"], arrays["num_positives"]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "predictions.npz", **arrays)
    _write_csv(folder, arrays, zone)
    recalls = {f"R@{n}": 100 * float(correct[:, :n].any(axis=1).mean()) for n in (1, 5, 10)}
    result = {
        "dataset": "small city",
        "protocol": "all queries",
        "paper_column": None,
        "database_folder": str(folder / "database"),
        "queries_folder": str(folder / "queries"),
        "recalls": recalls if labels else {},
        "num_queries": num_queries,
        "num_database": len(arrays["places_m"]),
        "num_queries_without_positives": 1 if labels else None,
        "positives": f"UTM distance of at most {THRESHOLD_M:g} m" if labels else None,
        "threshold_m": THRESHOLD_M if labels else None,
        "denominator": "all queries",
        "resize": "none",
        "image_sizes": {"database": {"24x32": 40}, "queries": {"24x32": 7, "32x24": 1}},
        "descriptor_dim": 512,
        "test_method": "as the database",
        "search": "exact L2",
        "search_agreement": None,
        "num_unreadable": {"database": 0, "queries": 0},
        "notes": [],
        "model": "logs/run/best_model.pth",
        "model_sha256": "0123456789abcdef" * 4,
        "code_version": "0.1.0+abc",
        "seed": 0,
    }
    (folder / "results.json").write_text(json.dumps(result | results))
    return folder


def make_arrays(num_queries: int, k: int) -> dict[str, np.ndarray]:
    """Return what predictions.npz holds; the database is a grid of places, 100 m apart."""
    rng = np.random.default_rng(0)
    side = 8
    steps = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    places_m = np.array(ORIGIN_M) + 100.0 * steps
    at = rng.permutation(len(places_m))[:num_queries]
    queries_m = places_m[at] + rng.uniform(-15, 15, (num_queries, 2)).round(2)
    queries_m[-1] += (30.0, 30.0)  # no place is within 25 m
    predictions = np.empty((num_queries, k), np.int32)
    for query, place in enumerate(at):
        others = rng.permutation(np.delete(np.arange(len(places_m)), place))[: k - 1]
        predictions[query] = np.insert(others, 0 if query % 2 == 0 else 2, place)
    distances_m = np.linalg.norm(places_m[predictions] - queries_m[:, None], axis=2)
    correct = distances_m <= THRESHOLD_M
    return {
        "predictions": predictions,
        "descriptor_distances": np.sort(rng.uniform(0.3, 1.2, (num_queries, k)), axis=1).astype(
            np.float32
        ),
        "distances_m": distances_m.astype(np.float32),
        "correct": correct,
        "num_positives": correct.any(axis=1).astype(np.int32),
        "queries_m": queries_m,
        "first_predictions_m": places_m[predictions[:, 0]],
        "places_m": places_m,
    }


def _write_csv(folder: Path, arrays: dict[str, np.ndarray], zone: tuple[int | None, str]) -> None:
    in_zone = {"zone_number": zone[0], "zone_letter": zone[1]}
    with open(folder / "predictions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(PREDICTIONS_COLUMNS)
        for query, predictions in enumerate(arrays["predictions"][:, :CSV_RANKS]):
            year = f"{2010 + query // 2}0615"
            heading_deg = (20.0 * query - 10) % 360  # places look to 350 degrees
            fields = in_zone | {"timestamp": year, "pano_id": f"q{query}"}
            query_name = name(*arrays["queries_m"][query], heading_deg, **fields)
            path = write_image(folder / "queries" / query_name)
            for rank, place in enumerate(predictions):
                file_name = name(*arrays["places_m"][place], 350.0, pano_id=f"place{place}")
                prediction = folder / "database" / file_name
                if not prediction.exists():
                    write_image(prediction)
                correct = arrays["correct"][query, rank] if "correct" in arrays else ""
                row = (query, path, rank + 1, prediction)
                distance, metres = (
                    arrays[column][query, rank]
                    for column in ("descriptor_distances", "distances_m")
                )
                right = "" if correct == "" else int(correct)
                writer.writerow((*row, f"{distance:.6f}", f"{metres:.2f}", right))


def write_looks(folder: Path) -> None:
    """Write heat maps of all queries of a run and their top-1, as `reports.attention` does."""
    sha256 = json.loads((folder / "results.json").read_text())["model_sha256"]
    images = {}
    for rows in iterate_queries(folder / "predictions.csv"):
        number = f"{int(rows[0]['query_num']):05d}"
        images |= {f"{number}_query": rows[0]["query"], f"{number}_top1": rows[0]["prediction"]}
    known = {"kind": "attention", "max_over_mean": "2.5", "model_sha256": sha256}
    table = [
        [(known | {"picture": f"{name}.jpg", "image": image}).get(key, "") for key in COLUMNS]
        for name, image in images.items()
    ]
    (folder / FOLDER).mkdir()
    write_table(folder / FOLDER / TABLE_FILE, COLUMNS, table)
    maps = dict.fromkeys(images, np.eye(3, 4, dtype=np.float32))
    np.savez(folder / FOLDER / MAPS_FILE, **maps)


def change_arrays(folder: Path, remove: tuple[str, ...] = (), **changed: np.ndarray) -> None:
    """Replace or remove arrays of predictions.npz."""
    with np.load(folder / "predictions.npz") as file:
        arrays = dict(file) | changed
    for array in remove:
        del arrays[array]
    np.savez(folder / "predictions.npz", **arrays)
