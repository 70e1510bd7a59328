"""Finished and interrupted runs below a folder of logs, and what they measured."""

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commons
from datasets.catalog import find_test_set, find_train_folder
from paper.sources import Released, Source, Trained
from parser import parse_arguments
from reports.runs import find_sets, read_results

# Flags that say where or how fast, not what: runs that differ in them only are the same.
_TRAINING_PLACES = {
    *("save_dir", "datasets_folder", "cache_folder", "resume_train", "dry_run"),
    *("device", "num_workers", "augmentation_device", "infer_batch_size"),
    *("test_set_folder", "queries_folder", "num_preds_to_save", "save_only_wrong_preds"),
    "recall_values",
}
_PLAIN = {  # flags of eval.py that must be as they are by default: the paper's protocol
    *("positives", "no_labels", "per_city", "positive_dist_threshold", "test_method"),
    *("index", "skip_unreadable"),
}
_LOCAL_SETS = "mini_city"  # sets of that name are made, and differ from folder to folder


@dataclass(frozen=True)
class Missing:
    """Why there is no number."""

    reason: str


@dataclass(frozen=True)
class Training:
    """A run of train.py that is there."""

    folder: Path
    is_done: bool

    @property
    def best_model(self) -> Path:
        """The network of the epoch that was best on the validation set."""
        return self.folder / "best_model.pth"


class RunLog:
    """Looks runs up by their settings; never runs anything.

    `refresh()` reads the flags of all runs again, after new ones were made.
    """

    def __init__(self, folder: Path, datasets_folder: str, resize: str | None) -> None:
        """Read the flags of all runs.

        Args:
            folder: Holds the folders of runs, at any depth.
            datasets_folder: Where the data sets are.
            resize: The --resize_test_imgs that evaluations must have had; None: not given.
        """
        self.folder = folder
        self.datasets_folder = datasets_folder
        self.resize = resize
        self.refresh()

    def refresh(self) -> None:
        """Read the flags of all runs again, and what those by the paper's protocol measured."""
        self._runs = dict(_read_flags(self.folder))
        self._results = {
            place: read_results(place)
            for folder, flags in self._runs.items()
            if "no_labels" in flags and self._is_plain(flags)
            for place in _sets_of(folder)
        }

    def training(self, source: Trained, seed: int) -> Training | None:
        """Return the run of a training: one that is done, or else the one that got farthest."""
        wanted = _training_flags(source, seed)
        interrupted = []
        for folder, flags in self._runs.items():
            if "groups_num" not in flags or not self._is_same_training(wanted, flags):
                continue
            if (folder / "results.json").is_file():
                return Training(folder, is_done=True)
            if (folder / "last_checkpoint.pth").is_file():
                interrupted.append((len(_read_lines(folder / "metrics.jsonl")), folder))
        return Training(max(interrupted)[1], is_done=False) if interrupted else None

    def _is_same_training(self, wanted: Mapping[str, Any], flags: Mapping[str, Any]) -> bool:
        if wanted["dataset"].startswith(_LOCAL_SETS) and not self._is_same_place(flags):
            return False
        return all(
            flags.get(name, value) == value
            for name, value in wanted.items()
            if name not in _TRAINING_PLACES
        )

    def _is_same_place(self, flags: Mapping[str, Any]) -> bool:
        return Path(flags["datasets_folder"]).resolve() == Path(self.datasets_folder).resolve()

    def best_val_recall(self, source: Source, seed: int) -> float | Missing:
        """Return R@1 in percent on the validation set, of the best epoch of a training."""
        if not isinstance(source, Trained):
            return Missing(_why_not(source))
        training = self.training(source, seed)
        if training is None or not training.is_done:
            return Missing("interrupted" if training else "not run")
        lines = _read_lines(training.folder / "metrics.jsonl")
        return max(json.loads(line)["R@1"] for line in lines)

    def evaluation(self, source: Source, seed: int, dataset: str) -> Path | Missing:
        """Return the folder with the results of a network on a test set."""
        if missing := self.missing_set(dataset):
            return missing
        if isinstance(source, Trained):
            training = self.training(source, seed)
            if training is None or not training.is_done:
                return Missing("interrupted" if training else "not run")
            best = training.best_model
            model = {"model_sha256": _sha256(best, best.stat().st_mtime_ns)}
        elif isinstance(source, Released):
            model = {"model": source.spec}
        else:
            return Missing(_why_not(source))
        for place, result in self._results.items():
            if self._is_of(result, model, dataset):
                return place
        return Missing("not run")

    def recalls(self, source: Source, seed: int, dataset: str) -> dict[str, float] | Missing:
        """Return {"R@1": percent, ...} of a network on a test set."""
        place = self.evaluation(source, seed, dataset)
        return place if isinstance(place, Missing) else self._results[place]["recalls"]

    def missing_set(self, dataset: str) -> Missing | None:
        """Return that a test set is not on disk; None if it is."""
        try:
            find_test_set(dataset, self.datasets_folder)
        except FileNotFoundError:
            return Missing("no data set")
        return None

    def has_train_set(self, source: Trained) -> bool:
        """Return whether the images that a network is trained on are on disk."""
        try:
            find_train_folder(source["dataset"], self.datasets_folder)
        except FileNotFoundError:
            return False
        return True

    def _is_plain(self, flags: Mapping[str, Any]) -> bool:
        default = _evaluation_flags()
        return flags.get("resize_test_imgs") == self.resize and all(
            flags.get(name) == default[name] for name in _PLAIN
        )

    def _is_of(self, result: Mapping[str, Any], model: Mapping[str, str], dataset: str) -> bool:
        if result["dataset"] != dataset:
            return False
        if dataset.startswith(_LOCAL_SETS):
            database = find_test_set(dataset, self.datasets_folder).database
            if Path(result["database_folder"]).resolve() != database.resolve():
                return False
        return all(result[name] == value for name, value in model.items())


@functools.cache
def _training_flags(source: Trained, seed: int) -> dict[str, Any]:
    """Return all flags of a training, with the defaults that it leaves."""
    return vars(parse_arguments(source.argv(seed)))


@functools.cache
def _evaluation_flags() -> dict[str, Any]:
    """Return the flags of eval.py by default."""
    return vars(parse_arguments(["--dataset=x"], is_training=False))


def _why_not(source: Source) -> str:
    return getattr(source, "reason", "not trained here")


def _read_flags(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted(folder.glob("**/args.json")):
        try:
            flags = json.loads(file.read_text())
        except ValueError:  # another program's
            continue
        if isinstance(flags, dict):
            yield file.parent, flags


def _sets_of(folder: Path) -> list[Path]:
    try:
        return list(find_sets(folder).values())
    except (FileNotFoundError, ValueError):  # not finished, or damaged
        return []


def _read_lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []


@functools.cache
def _sha256(path: Path, mtime_ns: int) -> str:
    """Return the SHA-256 of a file, read once as long as it does not change."""
    return commons.describe_model(path)["model_sha256"]
