"""Evaluations of one set in several settings, by one process or by those of a job."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

import commons
from datasets.eval_set import Labels, load_own_set
from evaluation import Evaluation, Protocol
from evaluation.descriptor_files import DescriptorFiles
from evaluation.descriptors import Inference
from evaluation.evaluate import evaluate_all

SETTINGS = {  # keywords of Protocol, of Inference, of Labels
    "plain": ({}, {}, {}),
    "more processes than windows": ({}, {"batch_size": 16}, {}),
    "crops": ({"resize": "20x24", "test_method": "maj_voting"}, {}, {}),
    "float16": ({}, {"dtype": "float16"}, {}),
    "searched in float16": ({"search": "fp16"}, {}, {}),
    "per city": ({}, {}, {"per_city": True}),
    "files": ({}, {}, {}),
}


def noise(images):
    """Return projections of the pixels of images, so that every bit of them matters."""
    rows = torch.nn.functional.interpolate(images, (8, 8)).flatten(1)
    weights = torch.randn(192, 16, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(rows @ weights)


def evaluate_each(folder: str | Path, kept: str | Path) -> Iterator[tuple[str, Evaluation]]:
    """Yield the evaluations of the set in a folder in each of SETTINGS."""
    for setting, (protocol, inference, labels) in SETTINGS.items():
        eval_set = load_own_set(folder, labels=Labels(**labels))
        settings = {"batch_size": 1, "skip_unreadable": True} | inference
        [evaluation] = evaluate_all(
            noise,
            [eval_set],
            Protocol((1, 5, 20), **protocol),
            Inference(torch.device("cpu"), **settings),
            30,
            DescriptorFiles("noise", save_folder=kept) if setting == "files" else None,
        )
        yield setting, evaluation


def main(argv: Sequence[str]) -> None:
    """Write the results of this process; `argv` is SET, KEPT_DESCRIPTORS, OUT."""
    for setting, found in evaluate_each(*argv[:2]):
        file = Path(argv[2], f"{setting}_{commons.rank()}.npz")
        result = np.array(repr(found.result))
        np.savez(file, predictions=found.predictions, distances=found.distances, result=result)
