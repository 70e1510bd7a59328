"""What only a CUDA device shows: streams, mixed precision, determinism, several processes.

`make test-gpu` runs this on a machine with a GPU; elsewhere all of it is skipped. The logic of the
tests runs on a CPU by `TEST_DEVICE=cpu pytest tests/test_gpu.py`, where it shows no more than that.
"""

import contextlib
import json
import os
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import write_image
from forked_commands import run_forked, run_job, wait_for_all
from torch.utils.data import DataLoader
from training_runs import SMALL, assert_same_state, metrics_of, position_of, small_training

import machine
from datasets.augmentation import Augmentation, AugmentationParams
from datasets.groups import Sample, collate
from datasets.image_lists import list_images
from eval import main as eval_main
from evaluation.descriptors import Inference, extract_descriptors
from evaluation.views import View
from model.aggregation import build_aggregation
from model.checkpoint_files import read_checkpoint
from model.inference import optimize
from model.network import build_network
from runs.provenance import peak_memory, record_start
from train import main as train_main
from train import train_one_epoch
from training.mining import cross_distances
from training.objective import Batch, batches_on_device

pytestmark = pytest.mark.gpu
DEVICE = torch.device(os.environ.get("TEST_DEVICE", "cuda"))
IS_CUDA = DEVICE.type == "cuda"
CPU = torch.device("cpu")
_SLEEP_CYCLES = 20_000_000  # some 10 ms: what does not wait for the device comes too early then


@pytest.fixture
def device_flags(flags, monkeypatch):
    """Return the flags of a small training on the device."""
    monkeypatch.setattr("training.state.cpu_computes_in", lambda name: True)
    return [*flags, f"--device={DEVICE.type}"]


@contextlib.contextmanager
def no_waiting():
    """Let an operation fail for which the host waits for the device."""
    if not IS_CUDA:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def delay_device():
    """Keep the current stream of the device busy, so that all that follows comes late."""
    if IS_CUDA:
        torch.cuda._sleep(_SLEEP_CYCLES)


def random_images(*sizes):
    """Return uint8 images [3, H, W] of sizes (H, W)."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes
    ]


# ---- batches ----


def test_augmentation_equals_that_of_the_cpu_and_never_waits():
    images = random_images((60, 80), (80, 60), (60, 80), (64, 64))
    augmentation = Augmentation(AugmentationParams(48))
    on_device = [image.to(DEVICE) for image in images]
    expected = augmentation.batch(images, range(4))
    augmentation.batch(on_device, range(4))  # libraries may be loaded
    with no_waiting():
        actual = augmentation.batch(on_device, range(4))
    assert actual.device.type == augmentation(on_device[0], 0).device.type == DEVICE.type
    torch.testing.assert_close(actual.cpu(), expected, atol=1e-3, rtol=0)


class NumberedImages(torch.utils.data.Dataset):
    """Noise of mixed sizes; every fifth image could not be read."""

    def __len__(self):
        return 48

    def __getitem__(self, i):
        (image,) = random_images([(40, 30), (30, 40)][i % 2] if i < 24 else (36, 36))
        return Sample(image + i, i, i, [f"image {i}"] if i % 5 == 0 else [])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("is_augmented", [False, True])
def test_prefetched_batches_arrive_whole_and_in_order(num_workers, is_augmented):
    """While the device is busy with each: those that come too early, or go too early, differ."""
    augmentation = Augmentation(AugmentationParams(32)) if is_augmented else None

    def batches(device, num_workers):
        first = 0 if is_augmented else 24  # equal sizes, of images that are not augmented
        loader = DataLoader(
            torch.utils.data.Subset(NumberedImages(), range(first, 48)),
            batch_size=4,
            num_workers=num_workers,
            collate_fn=collate,
            pin_memory=device.type == "cuda",
        )
        return batches_on_device(loader, device, augmentation)

    sums = []
    for batch in batches(DEVICE, num_workers):
        delay_device()
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        sums.append((batch.images.float() * 2, batch.labels + 1, batch.unreadable))
        del batch
    expected = list(batches(CPU, 0))
    assert len(sums) == len(expected) == (12 if is_augmented else 6)
    for (images, labels, unreadable), batch in zip(sums, expected, strict=True):
        torch.testing.assert_close(images.cpu(), batch.images.float() * 2, atol=2e-3, rtol=0)
        assert torch.equal(labels.cpu(), batch.labels + 1) and unreadable == batch.unreadable


# ---- the loop ----


def train_on_noise(device, num_iterations=12, **optimization):
    """Train on given batches; return the training, the statistics, and where the host waited."""
    training = small_training(lr=1e-3, device=device, **optimization)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 64, 64, generator=generator).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    batches = [Batch(images, torch.arange(4).to(device), [])] * num_iterations
    training.objective.batches = lambda model, epoch, first: iter(batches)
    with contextlib.ExitStack() as stack:

        def after_iteration(training, unreadable):
            training.progress.check()
            if training.progress.iteration == 3:  # kernels are chosen, memory is reserved
                stack.enter_context(no_waiting())
            if training.progress.iteration == num_iterations - 1:
                stack.close()

        stats = train_one_epoch(training, after_iteration)
    return training, stats


@pytest.mark.parametrize("amp_dtype", [None, "fp16", "bf16"])
def test_iterations_never_wait_and_give_the_losses_of_a_cpu(amp_dtype, monkeypatch):
    scaler = partial(torch.amp.GradScaler, init_scale=256.0)  # so that nothing overflows
    monkeypatch.setattr("torch.amp.GradScaler", scaler)
    amp = {"use_amp16": True, "amp_dtype": amp_dtype} if amp_dtype else {}
    training, stats = train_on_noise(DEVICE, max_grad_norm=10.0, **amp)
    _, expected = train_on_noise(CPU, max_grad_norm=10.0)
    assert stats.loss == pytest.approx(expected.loss, rel=0.05 if amp_dtype else 5e-3)
    assert stats.gradient_norm == pytest.approx(expected.gradient_norm, rel=0.2)
    assert stats.skipped_steps == 0
    assert bool(training.scaler.is_enabled()) is (amp_dtype == "fp16")
    (head,), (adam,) = training.objective.heads, training.objective.head_optimizers
    moments = [value for state in adam.state.values() for value in state.values()]
    assert len(moments) == 3
    assert {tensor.device.type for tensor in (head.weight, *moments)} == {"cpu"}, "put away"


def test_a_scaler_skips_what_overflows_and_lowers_its_scale():
    training, _ = train_on_noise(DEVICE, 2, use_amp16=True)
    before = [parameter.detach().clone() for parameter in training.network.parameters()]
    with training.turn() as optimizers:
        images = torch.full((2, 3, 64, 64), 1.0, device=DEVICE)
        loss = training.objective.loss(
            training.model, Batch(images, torch.zeros(2, dtype=torch.int64, device=DEVICE), [])
        )
        scale = training.scaler.get_scale()
        training.step(loss * torch.inf, optimizers)
    assert training.scaler.get_scale() == scale / 2
    for parameter, old in zip(training.network.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


@pytest.mark.parametrize("amp_dtype", ["fp16", "bf16"])
def test_mixed_precision_trains_as_32_bits_do(device_flags, tmp_path, amp_dtype):
    line = [*device_flags, "--epochs_num=1", "--lr=1e-7", "--classifiers_lr=1e-5"]
    amp = ["--use_amp16", f"--amp_dtype={amp_dtype}"]
    train_main([*line, *amp, f"--save_dir={tmp_path / 'amp'}"])
    train_main([*line, f"--save_dir={tmp_path / 'full'}"])
    (line,), (full,) = (metrics_of(tmp_path / run) for run in ("amp", "full"))
    assert line["loss"] == pytest.approx(full["loss"], rel=0.05) and line["loss"] != full["loss"]
    scaler = read_checkpoint(tmp_path / "amp" / "last_checkpoint.pth")["scaler_state_dict"]
    assert bool(scaler) is (amp_dtype == "fp16")


def test_a_training_on_the_device_is_that_on_a_cpu(device_flags, tmp_path):
    """From images to recalls; the device augments, workers load."""
    line = ["--epochs_num=2", "--lr=1e-6", "--classifiers_lr=1e-4", "--num_workers=2"]
    train_main([*device_flags, *line, f"--save_dir={tmp_path / 'device'}"])
    train_main([*device_flags, *line, "--device=cpu", f"--save_dir={tmp_path / 'cpu'}"])
    lines = (metrics_of(tmp_path / run) for run in ("device", "cpu"))
    for one, expected in zip(*lines, strict=True):
        assert one["loss"] == pytest.approx(expected["loss"], rel=5e-3)
        assert one["R@20"] == pytest.approx(expected["R@20"], abs=10)


def test_a_training_on_places_on_the_device_is_that_on_a_cpu(datasets_folder, tmp_path):
    line = [
        *("--method=gsv_cities", "--dataset=mini_city", f"--datasets_folder={datasets_folder}"),
        *(
            "--backbone=TinyPlain",
            "--backbone_weights=none",
            "--aggregation_args",
            "out_channels=4",
        ),
        *("--image_size=64", "--resize_test_imgs=64", "--batch_size=4", "--N=2", "--L=1"),
        *("--iterations_per_epoch=8", "--epochs_num=1", "--lr=1e-6", "--no-use_amp16"),
        *("--num_workers=2", f"--cache_folder={tmp_path / 'cache'}"),
    ]
    for device in dict.fromkeys((DEVICE.type, "cpu")):
        train_main([*line, f"--device={device}", f"--save_dir={tmp_path / device}"])
    (one,), (expected,) = (metrics_of(tmp_path / device) for device in (DEVICE.type, "cpu"))
    assert expected["loss"] > 0.5
    assert one["loss"] == pytest.approx(expected["loss"], rel=2e-2)  # a pair may be at the limit
    assert one["mined_share"] == pytest.approx(expected["mined_share"], abs=0.05)


@pytest.mark.skipif(IS_CUDA and not os.path.exists("/usr/bin/gcc"), reason="no C compiler")
def test_compiled_networks_train_as_others():
    expected = train_on_noise(DEVICE)[1].loss
    assert train_on_noise(DEVICE, compile=True)[1].loss == pytest.approx(expected, rel=5e-3)


# ---- whole commands, in processes of their own ----


def train(line, folder, before=None, environment=None):
    """Train in a process of its own; --deterministic needs one in which CUDA is not in use yet."""
    said = folder.with_name(f"{folder.name}_said")
    argv = [*line, f"--save_dir={folder}"]
    command = run_forked("train", argv, said, before, environment)
    assert command.wait(300) == 0, command.stderr
    return command


def stop_after(num_iterations):
    """Let a training stop after some iterations, as SIGTERM does."""
    from training.metrics import Progress

    note, count = Progress.note, iter(range(1, 10**6))

    def note_and_stop(self, *arguments):
        note(self, *arguments)
        if next(count) == num_iterations:
            os.kill(os.getpid(), 15)

    Progress.note = note_and_stop


@pytest.mark.parametrize("extra", [(), ("--use_amp16", "--amp_dtype=fp16")])
def test_deterministic_runs_are_equal_to_the_last_bit_also_if_resumed(
    device_flags, tmp_path, extra
):
    if extra and not IS_CUDA:
        pytest.skip("mixed precision pays on a GPU")
    line = [*device_flags, *extra, "--deterministic", "--epochs_num=2", "--num_workers=2"]
    line += ["--iterations_per_epoch=8"]
    whole, again, parts = (tmp_path / name for name in ("whole", "again", "parts"))
    train(line, whole)
    train(line, again)
    assert_same_state(again, whole)
    train(line, parts, partial(stop_after, 11))
    assert position_of(parts) == (1, 3)
    command = run_forked(
        "train", ["--resume_train", parts / "last_checkpoint.pth"], tmp_path / "resumed"
    )
    assert command.wait(300) == 0, command.stderr
    assert_same_state(parts, whole)
    assert metrics_of(parts) == metrics_of(whole)
    states = [
        read_checkpoint(run / "last_checkpoint.pth")["cuda_rng_state"] for run in (parts, whole)
    ]
    assert torch.equal(*states) if IS_CUDA else states == [None, None]


def share_the_gpu():
    """Let all processes compute on one GPU, and talk by gloo: NCCL wants a GPU for each."""
    machine._own_cuda_device = lambda: torch.device("cuda", 0)
    dist.init_process_group = partial(dist.init_process_group, "gloo")


def test_two_processes_on_one_gpu_train_like_one(datasets_folder, tmp_path):
    places = [f"--datasets_folder={datasets_folder}", f"--cache_folder={tmp_path / 'cache'}"]
    line = [*SMALL, *places, f"--device={DEVICE.type}", "--image_size=64", "--batch_size=8"]
    line += ["--lr=1e-6", "--classifiers_lr=1e-4", "--epochs_num=2"]
    train(line, tmp_path / "one")
    two = [*line, f"--save_dir={tmp_path / 'two'}"]
    wait_for_all(run_job(2, "train", two, tmp_path / "process", share_the_gpu))
    one, two = (metrics_of(tmp_path / name) for name in ("one", "two"))
    for line, expected in zip(two, one, strict=True):
        # On a CPU each process normalises by its own share of a batch.
        assert line["loss"] == pytest.approx(expected["loss"], rel=5e-3 if IS_CUDA else 0.3)
    results = [json.loads((tmp_path / run / "results.json").read_text()) for run in ("one", "two")]
    assert results[0]["recalls"]["R@20"] == pytest.approx(results[1]["recalls"]["R@20"], abs=10)


# ---- extraction ----


@pytest.fixture
def mixed_folder(tmp_path):
    """Return a folder with 40 images of three sizes, mixed."""
    for number in range(40):
        size = [(20, 30), (30, 20), (24, 24)][number % 3]
        write_image(tmp_path / "set" / f"{number:02d}.png", size)
    return tmp_path / "set"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_extraction_overlaps_and_gives_the_descriptors_of_a_cpu(mixed_folder, num_workers):
    """While the device is busy, copies to it and from it must not overtake."""

    def slow_mean(images):
        delay_device()
        height, width = images.shape[2:]
        size = torch.tensor([[height, width]], device=images.device).expand(len(images), 2)
        return torch.cat((images.mean((2, 3)), size.float()), dim=1)

    paths = list_images(mixed_folder)
    expected = extract_descriptors(slow_mean, paths, View(), Inference(CPU, 2))
    found = extract_descriptors(slow_mean, paths, View(), Inference(DEVICE, 2, num_workers))
    np.testing.assert_allclose(found.descriptors, expected.descriptors, atol=1e-4)
    assert found.image_sizes == expected.image_sizes


@pytest.mark.parametrize("rule", ["50x70-pillow", "90x20-bicubic-pillow", "multiple14"])
def test_images_are_resized_as_on_a_cpu(rule):
    """Pillow's grey levels exactly, as they are whole numbers."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 60, 80), generator=generator, dtype=torch.uint8)
    found, expected = View(rule)(images.to(DEVICE)).cpu(), View(rule)(images)
    atol = 1e-6 if "pillow" in rule else 1e-5
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.skipif(not IS_CUDA, reason="16 bits are for CUDA devices")
def test_16_bits_change_descriptors_a_little(mixed_folder):
    paths = list_images(mixed_folder)
    torch.manual_seed(0)
    network = build_network("ResNet18", 32, backbone_weights="none").eval().to(DEVICE)
    exact, rounded = (
        extract_descriptors(network, paths, View(), Inference(DEVICE, 4, use_amp16=use)).descriptors
        for use in (False, True)
    )
    assert 0 < np.abs(exact - rounded).max() < 1e-2


@pytest.mark.parametrize("backbone", ["ResNet18", "EfficientNet_Lite0"])
def test_folded_networks_give_the_same_descriptors(backbone):
    torch.manual_seed(0)
    network = build_network(backbone, 32, backbone_weights="none").eval().to(DEVICE)
    fast = optimize(network)
    for shape in ((1, 3, 64, 64), (3, 3, 65, 97)):
        images = torch.randn(shape, device=DEVICE)
        with torch.inference_mode():
            torch.testing.assert_close(fast(images), network(images), rtol=0, atol=2e-3)  # TF32


@pytest.mark.parametrize("extra", [(), ("--use_amp16",)])
def test_an_evaluation_finds_what_it_finds_on_a_cpu(eval_flags, tmp_path, extra):
    if extra and not IS_CUDA:
        pytest.skip("16 bits are for CUDA devices")
    line = [*eval_flags, "--dataset=mini_city_test_v1", "--no_report"]
    eval_main([*line, f"--save_dir={tmp_path / 'cpu'}"])
    on_device = [f"--device={DEVICE.type}", "--num_workers=2", f"--save_dir={tmp_path / 'device'}"]
    eval_main([*line, *on_device, *extra])
    distances = [
        np.load(tmp_path / run / "predictions.npz")["descriptor_distances"]
        for run in ("cpu", "device")
    ]
    np.testing.assert_allclose(*distances, atol=1e-2)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_distances_to_mine_with_are_those_of_a_cpu(dtype):
    rng = np.random.default_rng(0)
    queries, database = (rng.standard_normal((num, 4096)).astype(dtype) for num in (20, 9000))
    distances = [cross_distances(queries, database, device) for device in (CPU, DEVICE)]
    np.testing.assert_allclose(*distances, rtol=1e-5)


# ---- provenance ----


def test_a_run_says_which_device_it_ran_on(tmp_path):
    held = torch.zeros(50_000_000, device=DEVICE)
    record_start(tmp_path, DEVICE)
    (start,) = json.loads((tmp_path / "environment.json").read_text())
    assert start["device"].startswith(DEVICE.type)
    if IS_CUDA:
        assert start["device_name"] == torch.cuda.get_device_name() and start["vram_gb"] > 0
        assert start["cuda"] == torch.version.cuda and start["driver"].count(".") >= 1
        assert peak_memory(DEVICE)["peak_vram_mb"] >= held.nbytes / 1e6


@pytest.mark.parametrize("name", ["netvlad", "crn", "sralnet", "appsvr", "apanet"])
def test_aggregations_give_the_gradients_of_a_cpu_and_wait_for_nothing(name):
    """In float32 also under autocast."""
    torch.manual_seed(0)
    layer, maps = build_aggregation(name, 64, 0), torch.randn(10, 64, 15, 20)
    weights = torch.randn(10, layer.out_dim)

    def differentiate(device):
        layer.to(device).zero_grad()
        images = maps.to(device).requires_grad_()
        (layer(images) * weights.to(device)).sum().backward()
        return [
            one.cpu()
            for one in (images.grad, *(p.grad for p in layer.parameters() if p.requires_grad))
        ]

    expected = differentiate(CPU)
    for found, wanted in zip(differentiate(DEVICE), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())
    on_device = maps.to(DEVICE)
    layer(on_device)
    with no_waiting(), torch.autocast(DEVICE.type, torch.bfloat16):
        descriptors = layer(on_device)
    cosines = (descriptors * layer(on_device)).sum(1)
    assert descriptors.dtype == torch.float32 and cosines.min() > 0.99
