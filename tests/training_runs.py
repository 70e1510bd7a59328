"""Small trainings, and what they left behind."""

import json

import torch

from model.files import read_checkpoint

SMALL = [
    *("--dataset=mini_city", "--backbone=ResNet18", "--backbone_weights=none"),
    *("--fc_output_dim=16", "--image_size=32", "--resize_test_imgs=32", "--batch_size=4"),
    *("--min_images_per_class=3", "--groups_num=2", "--epochs_num=4", "--iterations_per_epoch=3"),
    *("--lr=0.001", "--num_workers=0", "--device=cpu"),
]


def tensors_of(content, prefix=""):
    """Flatten a checkpoint to {path: tensor or plain value}."""
    if isinstance(content, dict):
        items = content.items()
    elif isinstance(content, (list, tuple)):
        items = enumerate(content)
    else:
        return {prefix: content}
    return {k: v for key, value in items for k, v in tensors_of(value, f"{prefix}/{key}").items()}


def assert_same_state(folder, other):
    """Compare networks, heads, optimizers and generators to the last bit."""
    state, expected = (
        tensors_of(read_checkpoint(path / "last_checkpoint.pth") | {"args": None})
        for path in (folder, other)
    )
    assert state.keys() == expected.keys() and len(state) > 100
    for key, value in state.items():
        other_value = expected[key]
        same = torch.equal(value, other_value) if torch.is_tensor(value) else value == other_value
        assert same, key
    best, expected_best = (read_checkpoint(path / "best_model.pth") for path in (folder, other))
    assert all(torch.equal(best[key], expected_best[key]) for key in expected_best)


def metrics_of(folder):
    """Read metrics.jsonl, without the times that differ from run to run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("images_per_second", "data_wait_share", "seconds")
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]
