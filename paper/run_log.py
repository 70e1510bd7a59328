"""Finished and interrupted runs below a folder of logs, and their results."""

import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import commons
from datasets.catalog import TRAIN_SETS, find_test_set, find_train_folder
from datasets.tables import parse_json, read_json
from methods import DEFAULT_METHOD
from paper.networks import WHITENING, Released, Source, Trained
from parser import parse_eval_arguments, parse_train_arguments
from reports.runs import find_sets, read_results, with_names_of_today
from training.checkpoints import BEST, LAST, NO_INFLUENCE, PREVIOUS, WHITENED

_PLAIN = (  # flags that must have their defaults: the paper's protocol
    *("positives", "no_labels", "per_city", "positive_dist_threshold", "test_method"),
    *("search", "exclude_self", "skip_unreadable", "test_set_folder"),
)
_NO_INFLUENCE = (NO_INFLUENCE - {"epochs_num"}) | set(WHITENING)
_RECALLS = {"R@1", "R@5", "R@10"}  # of the paper's tables
_KINDS = {"epochs_num": int, "patience": int, "datasets_folder": str}  # of flags in use below
_LOCAL_SETS = "mini_city"  # generated sets differ from folder to folder


@dataclass(frozen=True)
class Missing:
    """Why a number is missing."""

    reason: str


NO_DATA_SET, NOT_RUN = Missing("no data set"), Missing("not run")


@dataclass(frozen=True)
class TrainingRun:
    """A run of train.py on disk."""

    folder: Path
    num_epochs: int  # finished ones
    is_done: bool  # all epochs, or patience ended, and the test
    model: Path  # the network: that of the best epoch, or with a whitening that may be missing

    @property
    def best_model(self) -> Path:
        """The network of the epoch that was best on the validation set, without whitening."""
        return self.folder / BEST

    @property
    def has_checkpoint(self) -> bool:
        """Whether it can be resumed."""
        return any((self.folder / name).is_file() for name in (LAST, PREVIOUS))

    @property
    def best_val_recall(self) -> float:
        """R@1 of that epoch on the validation set, in percent."""
        return max(epoch["R@1"] for epoch in self._epochs())

    @property
    def minutes(self) -> float:
        """Of training and mining, without validation."""
        return sum(one["seconds"] + one.get("mining_seconds", 0) for one in self._epochs()) / 60

    @property
    def peak_gb(self) -> float:
        """Peak memory of the training's process, see `runs.provenance.peak_memory`; 0: unknown."""
        return max((one.get("peak_ram_mb", 0) for one in self._epochs()), default=0) / 1000

    def _epochs(self) -> list[dict[str, Any]]:
        file = self.folder / "metrics.jsonl"
        return [
            _read_epoch(line, f"Line {number} of {file}")
            for number, line in enumerate(_read_lines(file), 1)
        ]


class RunLog:
    """Finds runs by their settings; never starts any.

    `refresh()` reads the flags of all runs again, to find new ones.
    """

    def __init__(self, folder: Path, datasets_folder: str) -> None:
        """Read the flags of all runs.

        Args:
            folder: Of runs, at any depth.
            datasets_folder: Of the data sets.
        """
        self.folder = folder
        self.datasets_folder = datasets_folder
        self.refresh()

    def refresh(self) -> None:
        """Read the flags of all runs again, and the results of those by the paper's protocol."""
        self._runs = dict(_read_flags(self.folder))
        self._results = {
            place: result | {"resize_test_imgs": flags.get("resize_test_imgs")}
            for folder, flags in self._runs.items()
            if self._is_plain(flags)
            for place, result in _read_sets(folder)
            if result["recalls"].keys() >= _RECALLS
        }

    def training(self, source: Trained, seed: int) -> TrainingRun | None:
        """Return the run of a training: a finished one, or else the longest."""
        wanted = source.settings | {"seed": seed}
        if source.start is not None:
            start = self.training(source.start, seed)
            if start is None or not start.is_done:
                return None
            wanted["resume_model"] = str(start.best_model)
        interrupted = []
        for folder, flags in self._runs.items():
            if "epochs_num" not in flags or not self._is_same_training(wanted, flags):
                continue
            num_epochs = len(_read_lines(folder / "metrics.jsonl"))
            # Results of a shorter training do not count, but patience may end one early.
            has_stalled = flags.get("patience", 0) > 0 and num_epochs < flags["epochs_num"]
            is_whole = has_stalled or num_epochs >= wanted["epochs_num"]
            is_done = (folder / "results.json").is_file() and is_whole
            model = folder / _name_model(wanted, flags)
            training = TrainingRun(folder, min(num_epochs, wanted["epochs_num"]), is_done, model)
            if is_done and training.best_model.is_file():
                return training
            was_early = num_epochs == 0  # stopped before any model was the best
            has_best = was_early or training.best_model.is_file()
            if training.has_checkpoint and has_best:
                interrupted.append(training)
        return max(interrupted, key=lambda one: one.num_epochs, default=None)

    def finished_training(self, source: Source, seed: int) -> TrainingRun | Missing:
        """Return the finished run of a training, or why there is none."""
        if not isinstance(source, Trained):
            return Missing("not trained here")
        training = self.training(source, seed)
        if training is None:
            return NOT_RUN
        return training if training.is_done else Missing("interrupted")

    def evaluation(self, source: Source, seed: int, dataset: str) -> Path | Missing:
        """Return the folder with the results of a network on a test set."""
        if isinstance(source, Released):
            found = self._find({"model": source.spec}, source, dataset)
        else:
            found = self.finished_training(source, seed)
            if isinstance(found, TrainingRun):
                sha256 = _sha256_of(found.model)
                found = self._find({"model_sha256": sha256}, source, dataset) if sha256 else NOT_RUN
        is_missing = isinstance(found, Missing)
        return NO_DATA_SET if is_missing and not self.has_set(dataset) else found

    def _find(self, model: Mapping[str, str], source: Source, dataset: str) -> Path | Missing:
        wanted = {**model, "resize_test_imgs": source.resize}
        for place, result in self._results.items():
            if self._is_of(result, wanted, dataset):
                return place
        return NOT_RUN

    def result(self, folder: Path) -> dict[str, Any]:
        """Return the results in a folder returned by `evaluation`."""
        return self._results[folder]

    def has_set(self, dataset: str) -> bool:
        """Whether a test set is on disk."""
        try:
            find_test_set(dataset, self.datasets_folder)
        except FileNotFoundError:
            return False
        return True

    def missing_for_training(self, source: Trained) -> str:
        """Return the first missing data set of a training, empty if none."""
        name = source["dataset"]
        try:
            find_train_folder(name, self.datasets_folder)
        except FileNotFoundError:
            return f"training set {name}"
        needed = (TRAIN_SETS[name].val, TRAIN_SETS[name].test)
        missing = next((test_set for test_set in needed if not self.has_set(test_set)), "")
        return f"data set {missing}" if missing else ""

    def _is_same_training(self, wanted: Mapping[str, Any], flags: Mapping[str, Any]) -> bool:
        """Compare all relevant flags; those that an older version lacked have their defaults."""
        if flags.get("method", DEFAULT_METHOD) != wanted["method"]:
            return False
        if wanted["dataset"].startswith(_LOCAL_SETS) and not self._is_same_place(flags):
            return False
        default = _default_flags(wanted["method"])
        return not flags.get("changed_on_resume") and all(
            name in _NO_INFLUENCE or _is_same(flags.get(name, default[name]), value)
            for name, value in wanted.items()
        )

    def _is_same_place(self, flags: Mapping[str, Any]) -> bool:
        place = Path(flags.get("datasets_folder", "")).resolve()
        return place == Path(self.datasets_folder).resolve()

    def _is_plain(self, flags: Mapping[str, Any]) -> bool:
        default = _evaluation_flags()
        flags = {"search": flags.get("index", default["search"]), **flags}  # its older name
        return all(flags.get(name, default[name]) == default[name] for name in _PLAIN)

    def _is_of(self, result: Mapping[str, Any], wanted: Mapping[str, Any], dataset: str) -> bool:
        if result["dataset"] != dataset:
            return False
        if dataset.startswith(_LOCAL_SETS):
            folder = Path(self.datasets_folder).resolve()
            if folder not in Path(result.get("database_folder", "")).resolve().parents:
                return False
        return all(result.get(name) == value for name, value in wanted.items())


def _is_same(value: Any, other: Any) -> bool:
    """Compare values of a flag; an empty table says as little as none."""
    return value == other or all(one in (None, {}) for one in (value, other))


def _name_model(wanted: Mapping[str, Any], flags: Mapping[str, Any]) -> str:
    """Return the name of a network's file in the folder of a run with these flags."""
    if wanted["whitening"] == "none":
        return BEST
    kind, dim, kept_dims, num_images = values = [wanted[name] for name in WHITENING]
    if values == [flags.get(name) for name in WHITENING]:
        return WHITENED
    return f"{kind}_{dim}_{kept_dims or dim}_of_{num_images}.pth"


@functools.cache
def _default_flags(method: str) -> dict[str, Any]:
    return vars(parse_train_arguments([f"--method={method}", "--dry_run"]))


@functools.cache
def _evaluation_flags() -> dict[str, Any]:
    """Return the default flags of eval.py."""
    return vars(parse_eval_arguments(["--dataset=x", "--untrained"]))


def _read_flags(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted(folder.glob("**/args.json")):
        try:
            flags = read_json(file)
            values = {key: flags[key] for key in _KINDS.keys() & flags.keys()}
            wrong = [key for key, value in values.items() if not isinstance(value, _KINDS[key])]
            if wrong:
                raise ValueError(f"{file} is damaged: {wrong[0]} has a value of another kind")
        except ValueError as error:
            _warn(f"{error}; that run is left out")
        else:
            yield file.parent, with_names_of_today(flags)


@functools.cache
def _warn(sentence: str) -> None:
    """Log a warning once: runs are read again and again."""
    logging.warning(sentence)


def _read_epoch(line: str, name: str) -> dict[str, Any]:
    """Read a line of metrics.jsonl; a ValueError if it is not one of numbers, with R@1."""
    epoch = parse_json(line, name)
    wrong = [key for key, value in epoch.items() if not isinstance(value, (int, float))]
    if wrong or "R@1" not in epoch:
        raise ValueError(f"{name} is damaged: {(*wrong, 'R@1')[0]} is not a number")
    return epoch


def _read_sets(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the folders with results of a run and their content."""
    try:
        return [(place, read_results(place)) for place in find_sets(folder).values()]
    except FileNotFoundError:  # not finished
        return []
    except ValueError as error:
        _warn(f"{error}; its results are left out")
        return []


def _read_lines(file: Path) -> list[str]:
    return file.read_text("utf-8", "replace").splitlines() if file.is_file() else []


def _sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, empty if there is none."""
    return _cached_sha256(path, path.stat().st_mtime_ns) if path.is_file() else ""


@functools.cache
def _cached_sha256(path: Path, mtime_ns: int) -> str:
    """Return the SHA-256 of a file, cached until the file changes."""
    return commons.sha256_of(path)
