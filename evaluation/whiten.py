"""Fit a whitening to the descriptors of training images.

    params = WhiteningParams("pca_whiten", dim=512)
    add_whitening(network, fit_to_images(optimize(network), paths, inference, view, params))

Under torchrun, each process extracts a shard of the images; the main process has all descriptors
and fits, and every process gets the layer.
"""

import logging

import numpy as np
import torch
import torch.distributed as dist

import commons
from datasets.image_lists import ImagePaths
from evaluation.descriptors import Inference, Model, gather
from evaluation.evaluate import extract_shard
from evaluation.views import View
from model.whitening import (
    Whitening,
    WhiteningParams,
    check_dims,
    principal_axes,
    whitening_along,
)

NUM_IMAGES = 10_000  # of training images, at most: as in NetVLAD and OpenIBL


def fit_to_images(
    model: Model,
    paths: ImagePaths,
    inference: Inference,
    view: View,
    params: WhiteningParams,
    num_images: int = NUM_IMAGES,
    seed: int = 0,
) -> Whitening:
    """Fit a whitening to the descriptors of a sample of images, and log what it holds.

    Args:
        model: Images, ImageNet-normalised float32 [B, 3, H, W], to descriptors [B, D]; in
            evaluation mode, without a whitening.
        paths: Training images; never those of a test set.
        inference: Device, batch size and loader processes.
        view: What the model sees of an image; one view each.
        params: Of the whitening.
        num_images: Size of the sample, at most.
        seed: Decides the sample.

    Returns:
        A frozen layer on the CPU, the same in all processes.

    Raises:
        FileNotFoundError, ValueError: If an image cannot be read; names it.
        ValueError: If there are not so many dimensions: before an image is read if images are too
            few, else after the extraction.
    """
    sample = sample_images(paths, num_images, seed)
    check_dims(params.dim, len(sample))
    descriptors = _extract(model, sample, view, inference)

    def fit() -> Whitening:
        principal = principal_axes(descriptors, params.dim)
        logging.info(
            f"Whitening ({params.kind}): {params.dim:,} of {descriptors.shape[1]:,} dimensions, "
            f"{principal.explained:.1%} of the variance of {len(descriptors):,} images"
        )
        return whitening_along(principal, params)

    return commons.of_main_process(fit)


def sample_images(paths: ImagePaths, num_images: int, seed: int) -> ImagePaths:
    """Return a sample without repetition, in the order of the paths."""
    if len(paths) <= num_images:
        return paths
    rng = np.random.default_rng(seed)
    return paths.subset(np.sort(rng.choice(len(paths), num_images, replace=False, shuffle=False)))


def _extract(model: Model, paths: ImagePaths, view: View, inference: Inference) -> np.ndarray:
    """Return the descriptors of all readable images in the main process, else those of a shard."""
    extraction = extract_shard(model, paths, view, inference, "Training images")
    if extraction.unreadable:
        logging.warning(f"{len(extraction.unreadable):,} of {len(paths):,} images cannot be read")
    own = extraction.descriptors
    return _to_main_process(own if extraction.rows is None else own[extraction.rows])


def _to_main_process(own: np.ndarray) -> np.ndarray:
    """Return the rows of all processes in the main one, in order; in the others, their own.

    Each shard is received where it is to be: pickled objects would take the memory twice.
    """
    counts = gather(len(own))
    if len(counts) == 1:
        return own
    if commons.rank() > 0:
        if len(own):
            dist.send(torch.from_numpy(own), dst=0)
        return own
    rows = np.empty((sum(counts), own.shape[1]), own.dtype)
    parts = np.split(rows, np.cumsum(counts)[:-1])
    parts[0][:] = own
    for rank, part in enumerate(parts[1:], start=1):
        if len(part):
            dist.recv(torch.from_numpy(part), src=rank)
    return rows
