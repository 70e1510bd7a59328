"""CliqueMining: places that are near, batches of places that look alike and are apart."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_backbone  # noqa: F401, CLIQUES names it
from conftest import name, write_image
from forked_commands import run_job, wait_for_all
from golden_cases import golden
from gsv_files import write_gsv_cities
from training_runs import assert_same_state, metrics_of, position_of, stop_at

from datasets.image_names import parse_image_name
from evaluation.descriptors import Extraction
from model.checkpoint_files import read_checkpoint
from parser import parse_train_arguments
from train import main as train_main
from training.cliques import (
    CliqueParams,
    ClusteredImages,
    average_clusters,
    draw_batches,
    draw_clusters,
    find_cliques,
)
from training.places import Places, PlacesSettings

CLIQUES = [
    *("--method=gsv_cities", "--dataset=mini_city", "--backbone=TinyPlain", "--mining=cliques"),
    *("--backbone_weights=none", "--aggregation_args", "out_channels=4", "--image_size=32"),
    *("--resize_test_imgs=32", "--lr=1e-4", "--batch_size=4", "--iterations_per_epoch=3"),
    *("--similar_clusters=4", "--epochs_num=2", "--num_workers=0", "--device=cpu"),
    *("--no-use_amp16", "--max_bad_images=0.2"),
]


@pytest.fixture(scope="module")
def published():
    """Return the golden case, its images as ours, and the city of each image."""
    case = golden("cliquemining_a")
    positions, starts, cities, descriptors, city_of = [], [0], [], [], []
    for city in range(3):
        clusters = case[f"in.city{city}.unique_cluster"]
        order = np.argsort(clusters, kind="stable")
        utm = [case[f"in.city{city}.{axis}"][order] for axis in ("easting", "northing")]
        positions.append(np.column_stack(utm))
        counts = np.bincount(clusters, minlength=14)
        starts += (starts[-1] + np.cumsum(counts)).tolist()
        cities += [city] * 14
        city_of += [city] * len(clusters)
        descriptors.append(case[f"in.city{city}.cluster_descriptors"])
    positions = np.concatenate(positions)
    no_headings = np.full(len(positions), np.nan)
    images = ClusteredImages(
        *(positions, no_headings, np.array(starts), np.array(cities)), np.concatenate(descriptors)
    )
    return case, images, np.array(city_of)


def assert_apart(positions_m, batch, radius_m):
    """Check the images of each place, and those of different places."""
    assert len(set(batch.ravel().tolist())) == batch.size
    for place, other in itertools.combinations_with_replacement(range(len(batch)), 2):
        for one, two in itertools.product(batch[place].tolist(), batch[other].tolist()):
            distance = np.hypot(*(positions_m[one] - positions_m[two]))
            assert distance < radius_m if place == other else distance >= radius_m


def test_batches_have_what_those_of_the_public_code_have(published):
    case, images, city_of = published
    settings = case.meta["cfg"]
    params = CliqueParams(settings["threshold"], similar_clusters=settings["similar_places"])
    shape = (30, settings["batch"], settings["per_place"])
    batches = draw_batches(images, params, shape, np.random.default_rng(0))
    assert batches.shape == shape and case["out.images"].shape[1:] == shape[1:]
    for batch in batches:
        assert_apart(images.positions_m, batch, params.clique_radius)
        cities = city_of[batch]
        assert (cities == cities[:, :1]).all()
        changes = [city for city, _ in itertools.groupby(cities[:, 0].tolist())]
        assert len(set(changes)) == len(changes), "a city comes once"
    assert len({tuple(batch.ravel()) for batch in batches}) == 30
    again = draw_batches(images, params, shape, np.random.default_rng(0))
    assert (again == batches).all()


def test_similar_clusters_are_drawn_more_often():
    """Clusters on a line: those near the first one come with it, the farthest never does."""
    num = 12
    positions = np.array([[1000.0 * cluster, i] for cluster in range(num) for i in range(2)])
    descriptors = np.arange(num, dtype=np.float32)[:, None]
    starts, cities = np.arange(0, 2 * num + 1, 2), np.zeros(num, np.int64)
    images = ClusteredImages(positions, np.full(2 * num, np.nan), starts, cities, descriptors)
    params, gaps = CliqueParams(similar_clusters=1), []
    batches = draw_batches(images, params, (400, 2, 2), np.random.default_rng(0))
    for clusters in batches[:, :, 0] // 2:
        assert set(clusters.tolist()) != {0, num - 1}
        gaps.append(abs(int(clusters[0] - clusters[1])))
    pairs = [abs(one - two) for one, two in itertools.permutations(range(num), 2)]
    assert np.mean(gaps) < np.mean(pairs) - 0.5


def test_means_of_clusters_are_of_readable_images_of_all_processes(monkeypatch):
    """A cluster is in two shards, one shard is empty, of one cluster nothing can be read."""
    rows = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    clusters, unreadable = np.array([2, 2, 2, 4, 4, 5, 5, 5, 5, 9]), [1, 9]
    rows[unreadable] = np.nan
    shards = [
        Extraction(rows[first:end], {}, 10, unreadable, first)
        for first, end in ((0, 4), (4, 4), (4, 10))
    ]
    sent = []

    def gather(value):
        sent.append(value)
        return sent

    monkeypatch.setattr("training.cliques.gather", gather)
    means = [average_clusters(shard, clusters) for shard in shards][-1]  # the last has those of all
    wanted = [rows[[0, 2]].mean(0), rows[[3, 4]].mean(0), rows[5:9].mean(0)]
    np.testing.assert_allclose(means, wanted, rtol=1e-6)


def test_a_clique_is_near_looks_one_way_and_leaves_nothing_near():
    rng = np.random.default_rng(3)
    for trial in range(20):
        positions = rng.uniform(0, 120, (40, 2))
        headings = rng.choice([10.0, 20.0, 190.0, 355.0, np.nan], 40)
        images = ClusteredImages(positions, headings, *[np.empty(0)] * 3)
        found = find_cliques(images, rng.permutation(40), CliqueParams(), per_place=3)
        assert found, trial
        assert_apart(positions, np.array(found), 25.0)
        for clique in found:
            for one, two in itertools.combinations(headings[clique].tolist(), 2):
                turn = abs((one - two + 180) % 360 - 180)
                assert np.isnan(turn) or turn < 30
        # Nothing is left: no three images apart from those found are a clique.
        taken = positions[np.concatenate(found)]
        left = [i for i in range(40) if (np.hypot(*(positions[i] - taken).T) >= 25.0).all()]
        rest = find_cliques(images, np.array(left, np.int64), CliqueParams(), per_place=3)
        assert not rest


def test_weights_of_clusters_are_by_distance_from_the_first():
    """Against a computation of each distance; the first one is not drawn twice."""
    descriptors = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    cities = np.array([0, 1, 0, 0, 1, 0, 0, 1, 0])
    images = ClusteredImages(*[np.empty(0)] * 2, np.arange(10), cities, descriptors)
    of_city = np.flatnonzero(cities == 0)
    for first in of_city.tolist():
        draws = FakeDraws(first)
        drawn = draw_clusters(images, 0, CliqueParams(similar_clusters=3), draws)
        distances = [np.linalg.norm(descriptors[i] - descriptors[first]) for i in of_city]
        weights = [max(distances) - one if one > 0 else 0 for one in distances]
        np.testing.assert_allclose(draws.p, weights / np.sum(weights), atol=1e-6)
        assert drawn.tolist() == [first, *of_city[:3].tolist()]


class FakeDraws:
    """Stands for a generator: notes the probabilities it gets."""

    def __init__(self, first):
        self.first, self.p = first, None

    def choice(self, among, size=None, replace=True, p=None):
        if size is None:
            return self.first
        self.p = p
        return among[:size]


def test_too_few_places_are_refused():
    positions = np.array([[0.0, i] for i in range(8)])
    cluster = ClusteredImages(
        *(positions, np.full(8, np.nan), np.array([0, 8]), np.array([0])),
        np.ones((1, 3), np.float32),
    )
    with pytest.raises(ValueError, match="--batch_size is 2 places, but only 1 were found"):
        draw_batches(cluster, CliqueParams(), (1, 2, 4), np.random.default_rng(0))
    with pytest.raises(ValueError, match="--clique_radius must be above 0 m"):
        CliqueParams(clique_radius=0.0)


@pytest.fixture(scope="module")
def line(datasets_folder, tmp_path_factory):
    """Return flags of a training on 3 x 3 places 40 m apart, in two folders; one is unreadable."""
    folder = tmp_path_factory.mktemp("cliques")
    rng = np.random.default_rng(0)
    for place in range(18):
        colour = rng.integers(20, 220, 3)
        for number in range(5):
            position = (40.0 * (place % 9) + number, 2000.0 * (place // 9), 5)
            path = folder / "train" / f"city{place // 9}" / name(*position, pano_id=f"{number}")
            write_image(path, colour=(colour + 6 * number).tolist())
    path.write_bytes(b"no image")
    places = [f"--train_set_folder={folder / 'train'}", f"--cache_folder={folder / 'cache'}"]
    return [*CLIQUES, f"--datasets_folder={datasets_folder}", *places]


@pytest.fixture(scope="module")
def whole(line, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_main([*line, f"--save_dir={folder}"])
    return folder


def test_batches_of_a_training_are_places_apart(line, whole):
    state = read_checkpoint(whole / "last_checkpoint.pth")["objective_state_dict"]
    batches = state["mined"].numpy()
    assert batches.shape == (3, 4, 4) and state["mined_epoch"] == 1
    lines = [json.loads(text) for text in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < one["mined_share"] <= 1 and one["mining_seconds"] > 0 for one in lines)
    place_set = PlacesSettings.from_flags(vars(parse_train_arguments(line))).open().place_set
    found = [parse_image_name(place_set.path(image)) for image in range(place_set.num_images)]
    positions = np.array([(one.utm_east_m, one.utm_north_m) for one in found])
    for batch in batches:
        assert_apart(positions, batch, 25.0)
        cities = [place_set.path(place[0]).split("/")[-2] for place in batch.tolist()]
        assert len(set(cities)) <= 2
    assert len({place_set.path(image).split("/")[-2] for image in batches.ravel().tolist()}) == 2
    unreadable = next(i for i in range(len(found)) if _is_broken(place_set.path(i)))
    assert unreadable not in batches.ravel().tolist()


def _is_broken(path):
    return Path(path).read_bytes() == b"no image"


@pytest.mark.parametrize("number", [2, 4, 5], ids=["2", "4", "5"])
def test_an_interrupted_training_continues_with_the_same_bits(
    line, whole, tmp_path, monkeypatch, number
):
    run = [*line, f"--save_dir={tmp_path / 'run'}", "--resume_train=auto", "--checkpoint_every=1"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, Places, "_pair_loss", number)
        train_main(run)
    assert position_of(tmp_path / "run") == divmod(number - 1, 3)
    train_main(run)
    assert_same_state(tmp_path / "run", whole)
    assert metrics_of(tmp_path / "run") == metrics_of(whole)


def test_more_batches_than_were_mined_are_mined_anew(line, whole, tmp_path, monkeypatch):
    run = [*line, f"--save_dir={tmp_path}", "--resume_train=auto", "--checkpoint_every=1"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, Places, "_pair_loss", 2)
        train_main([*run, "--iterations_per_epoch=2"])
    train_main(run)
    assert metrics_of(tmp_path)[1]["mined_share"] > 0
    assert (
        len(read_checkpoint(tmp_path / "last_checkpoint.pth")["objective_state_dict"]["mined"]) == 3
    )


def test_flags_that_would_have_no_effect_are_refused(line, refused):
    said = refused(train_main, [*line, "--N=2", "--L", "1"], 2)
    assert "--mining cliques has no --L and no --N: its places are apart without groups" in said
    said = refused(train_main, [*line, "--mining=none", "--clique_radius=9"], 2)
    assert "--mining none has no --clique_radius and no --similar_clusters: add" in said


def test_batches_are_mined_every_other_epoch(line, tmp_path):
    train_main([*line, "--mining_epochs=2", "--epochs_num=3", f"--save_dir={tmp_path}"])
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert ["mining_seconds" in one for one in lines] == [True, False, True]


def test_two_processes_train_as_one(line, whole, tmp_path):
    wait_for_all(run_job(2, "train", [*line, f"--save_dir={tmp_path / 'two'}"], tmp_path / "said"))
    for two, one in zip(metrics_of(tmp_path / "two"), metrics_of(whole), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)


def test_positions_are_needed(line, tmp_path, refused):
    folder = write_gsv_cities(tmp_path / "gsv", {"London": 3})
    said = refused(train_main, [*line, f"--train_set_folder={folder}"], 1)
    assert "--mining cliques is for images with '@' names" in said
