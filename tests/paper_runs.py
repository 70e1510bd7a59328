"""Folders of runs as train.py and eval.py leave them, without running anything."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.catalog import TEST_SETS, TRAIN_SETS
from parser import parse_eval_arguments, parse_train_arguments


def make_sets(root: Path, *names: str) -> Path:
    """Make the folders of data sets, without images."""
    for name in names:
        if name in TRAIN_SETS:
            (root / TRAIN_SETS[name].folders[0]).mkdir(parents=True, exist_ok=True)
        if name in TEST_SETS:
            for part in ("database", TEST_SETS[name].queries):
                (root / TEST_SETS[name].folders[0] / part).mkdir(parents=True, exist_ok=True)
    return root


def write_training(
    folder: Path,
    argv: Sequence[str],
    val_recalls: Sequence[float],
    is_done: bool = True,
    datasets_folder: Path | str = "data",
) -> Path:
    """Write a run of train.py with these flags; a finished one has all epochs, the last with 0."""
    folder.mkdir(parents=True)
    flags = vars(parse_train_arguments([*argv, f"--datasets_folder={datasets_folder}"]))
    (folder / "args.json").write_text(json.dumps(flags))
    num_epochs = flags["epochs_num"] if is_done else len(val_recalls)
    recalls = [*val_recalls, *[0.0] * (num_epochs - len(val_recalls))]
    lines = [json.dumps({"epoch": n, "R@1": value}) for n, value in enumerate(recalls)]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "last_checkpoint.pth").write_bytes(b"state")
    (folder / "best_model.pth").write_bytes(str(folder).encode())
    if is_done:
        (folder / "results.json").write_text("{}")
    return folder


def write_evaluation(
    folder: Path,
    model: Mapping[str, str],
    recalls: Mapping[str, Mapping[str, float]],
    datasets_folder: Path,
    argv: Sequence[str] = (),
    **changed: Any,
) -> Path:
    """Write a run of eval.py on several sets; `model` identifies the network in results.json."""
    folder.mkdir(parents=True)
    flags = parse_eval_arguments(["--datasets", *recalls, "--untrained", *argv])
    (folder / "args.json").write_text(json.dumps(vars(flags)))
    for name, values in recalls.items():
        place = folder / name
        place.mkdir()
        database = datasets_folder / TEST_SETS[name].folders[0] / "database"
        result = {
            "dataset": name,
            "database_folder": str(database),
            "num_queries": 10,
            "num_database": 20,
            "recalls": dict(values),
            "model": "best_model.pth",
            "model_sha256": "",
        }
        (place / "results.json").write_text(json.dumps(result | dict(model) | changed))
    return folder
