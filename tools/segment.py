"""Write the label maps that SRALNet and APPSVR start from, with a DeepLabV3 of torchvision.

python -m tools.segment data/pitts30k/images/train --out labels
python -m tools.segment FOLDER --out LABELS --weights cityscapes_deeplabv3.pth

For each image a PNG of the training ids of Cityscapes, by the image's path: what train.py takes as
--semantic_labels. Weights of torchvision, downloaded once or given as a file, know what moves of
the classes of Pascal VOC (people, vehicles); all else counts as standing, also the sky. A file with
the 19 classes of Cityscapes gives their ids as they are. Images that have a map are left out, so
that a command that was stopped can be repeated.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights, deeplabv3_resnet50
from tqdm import tqdm

import commons
import machine
from command_line import CommandLine, HelpFormatter, add_device, add_io_retries, positive_int
from datasets.image_lists import ImagePaths, list_images
from evaluation.descriptors import Inference, load_windows
from evaluation.views import View
from model.checkpoint_files import read_checkpoint

TORCHVISION = DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1
_NUM_CITYSCAPES = 19
_BUILDING = 2  # stands for all that stands
_IDS_OF_VOC = {  # class of Pascal VOC -> training id of Cityscapes
    "person": 11,
    "car": 13,
    "bus": 15,
    "train": 16,
    "motorbike": 17,
    "bicycle": 18,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Segment the images of a folder that have no label map yet."""
    args = _parse_arguments(argv)
    with commons.usage_errors():
        view = View(args.resize)
        inference = Inference(
            machine.choose_device(args.device),
            args.infer_batch_size,
            args.num_workers,
            io_retries=args.io_retries,
        )
    images = list_images(args.folder)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    todo = [n for n in range(len(images)) if not label_file(images, n, out).exists()]
    logging.info(f"{len(images):,} images, {len(images) - len(todo):,} of them with a label map")
    if todo:
        network, ids = load_segmentation(args.weights)
        paths = images.subset(np.array(todo))
        segment(network.to(inference.device), ids, paths, inference, view, out)
    logging.info(f"Wrote {len(todo):,} label maps to {out}: train.py --semantic_labels {out}")


def load_segmentation(weights: str | Path | None) -> tuple[nn.Module, torch.Tensor]:
    """Return a DeepLabV3 with ResNet-50, and the training id of Cityscapes of each of its classes.

    Args:
        weights: File of its state dict with 21 classes, Pascal VOC's, or 19, those of Cityscapes'
            training ids; None for torchvision's, which is downloaded once.

    Returns:
        Images [B, 3, H, W] to {"out": scores [B, classes, H, W]}, and uint8 [classes].

    Raises:
        FileNotFoundError: If there is no such file, or it cannot be downloaded.
        ValueError: If it is of another network.
    """
    if weights is None:
        try:
            state = TORCHVISION.get_state_dict(progress=False, check_hash=True)
        except OSError as error:
            name = Path(TORCHVISION.url).name
            raise FileNotFoundError(
                f"Cannot download {TORCHVISION.url} ({error}): pass --weights FILE, or put it at "
                f"{Path(torch.hub.get_dir(), 'checkpoints', name)}"
            ) from None
    else:
        state = read_checkpoint(weights)
    state = {name: value for name, value in state.items() if not name.startswith("aux_classifier")}
    classes = TORCHVISION.meta["categories"]
    last = state.get("classifier.4.bias")
    num_classes = len(last) if isinstance(last, torch.Tensor) and last.ndim == 1 else 0
    if num_classes not in (len(classes), _NUM_CITYSCAPES):
        raise ValueError(
            f"{weights} is not a DeepLabV3 of torchvision with {len(classes)} classes of Pascal "
            f"VOC or {_NUM_CITYSCAPES} of Cityscapes"
        )
    network = deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=False
    )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{weights} is not a deeplabv3_resnet50 of torchvision: {error}") from None
    ids = range(num_classes)
    if num_classes != _NUM_CITYSCAPES:
        ids = [_IDS_OF_VOC.get(name, _BUILDING) for name in classes]
    return network.eval(), torch.tensor(ids, dtype=torch.uint8)


@torch.inference_mode()
def segment(
    network: nn.Module,
    ids: torch.Tensor,
    paths: ImagePaths,
    inference: Inference,
    view: View,
    out: Path,
) -> None:
    """Write the label map of each image, as large as what the network sees of it.

    Args:
        network: Of `load_segmentation`, on the device of `inference`.
        ids: Written for each of its classes, uint8 [classes].
        paths: The images.
        inference: How they are loaded.
        view: How they are resized.
        out: Folder of the label maps.
    """
    ((_, batches),) = load_windows(paths, [range(len(paths))], inference)
    with tqdm(total=len(paths), unit="image", desc="segmenting") as bar:
        for batch in batches:
            indices = torch.cat([some for some, _ in batch]).tolist()
            images = torch.cat([images for _, images in batch]).to(inference.device)
            found = network(view(images).flatten(0, 1))["out"].argmax(1)
            for index, labels in zip(indices, ids[found.cpu()].numpy(), strict=True):
                file = label_file(paths, index, out)
                file.parent.mkdir(parents=True, exist_ok=True)
                with commons.atomic_write(file) as temporary:
                    Image.fromarray(labels).save(temporary, "png")
            bar.update(len(indices))


def label_file(paths: ImagePaths, index: int, out: Path) -> Path:
    """Return where the label map of an image is."""
    return Path(out, paths.name(index)).with_suffix(".png")


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    cli = CommandLine(
        prog="python -m tools.segment",
        description=__doc__.split("\n")[0],
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = cli.add_argument
    add("folder", metavar="FOLDER", help="of training images, as train.py takes it")
    add("--out", required=True, metavar="LABELS", help="folder of the label maps")
    add(
        "--weights",
        metavar="FILE",
        help="of a deeplabv3_resnet50 with 21 classes of Pascal VOC or 19 of Cityscapes (default: "
        "torchvision's, downloaded once)",
    )
    add("--resize", default="520", metavar="{none,SIDE,HxW}", help="what the network sees")
    add("--infer_batch_size", type=positive_int, default=4, help="images per batch")
    add_device(add)
    add_io_retries(add)
    return cli.parse_args(argv)


if __name__ == "__main__":
    commons.run_command(main)
