from collections import defaultdict
from itertools import combinations

import numpy as np
import pytest

from datasets.image_lists import list_images
from datasets.image_names import read_numbers
from datasets.partition import PartitionParams, make_partition


def reference(east_m, north_m, heading_deg, params):
    """Split images one by one, in the words of the paper: {group id: {class cell: images}}."""
    classes = defaultdict(list)
    for image, position in enumerate(zip(east_m, north_m, heading_deg, strict=True)):
        east, north, heading = position
        cell = (
            int(east // params.M) * params.M,
            int(north // params.M) * params.M,
            int(heading % 360 // params.alpha) * params.alpha,
        )
        classes[cell].append(image)
    groups = {}  # in the order in which they are met
    large = {
        cell: images
        for cell, images in classes.items()
        if len(images) >= params.min_images_per_class
    }
    for cell, images in sorted(large.items(), key=lambda item: item[1][0]):
        group = (
            cell[0] // params.M % params.N,
            cell[1] // params.M % params.N,
            cell[2] // params.alpha % params.L,
        )
        groups.setdefault(group, {})[cell] = images
    return groups


def as_dict(partition):
    """Return {group id: {class cell: images}} of a partition."""
    groups = {}
    for group, group_id in enumerate(partition.group_ids):
        first, last = partition.group_starts[group : group + 2]
        groups[tuple(group_id.tolist())] = {
            tuple(partition.class_cells[c].tolist()): partition.images[
                partition.class_starts[c] : partition.class_starts[c + 1]
            ].tolist()
            for c in range(first, last)
        }
    return groups


def assert_same(partition, expected):
    actual = as_dict(partition)
    assert list(actual) == list(expected), "groups, in the order of their first image"
    for group, classes in actual.items():
        assert list(classes) == sorted(expected[group]), "classes by (east, north, heading)"
        assert classes == expected[group]


def random_images(num_images, extent_m=120.0, seed=0):
    rng = np.random.default_rng(seed)
    east_m = 551_000 + rng.uniform(-extent_m, extent_m, num_images)
    north_m = 4_180_000 + rng.uniform(-extent_m, extent_m, num_images)
    return east_m, north_m, rng.uniform(-30, 400, num_images)


def test_hand_made_cells():
    params = PartitionParams(M=10, alpha=30, N=5, L=2, min_images_per_class=1)
    east_m = np.array([19.99, 20.00, 70.0, 20.0, 20.0, 25.0])
    north_m = np.array([100.0, 100.0, 109.9, 100.0, 110.0, 100.0])
    heading_deg = np.array([0.0, 0.0, 29.9, 60.0, 0.0, 359.9])
    partition = make_partition(east_m, north_m, heading_deg, params)
    assert as_dict(partition) == {
        (1, 0, 0): {(10, 100, 0): [0]},
        (2, 0, 0): {(20, 100, 0): [1], (20, 100, 60): [3], (70, 100, 0): [2]},
        (2, 1, 0): {(20, 110, 0): [4]},
        (2, 0, 1): {(20, 100, 330): [5]},
    }


@pytest.mark.parametrize(
    ("heading_deg", "expected_deg"),
    [
        (0, 0),
        (359.9, 330),
        (360, 0),
        (-0.1, 330),
        (-1e-20, 0),
        (719.5, 330),
        (-390, 330),
        (29.999, 0),
    ],
)
def test_headings_wrap(heading_deg, expected_deg):
    params = PartitionParams(min_images_per_class=1)
    headings = np.array([heading_deg], float)
    partition = make_partition(np.array([5.0]), np.array([5.0]), headings, params)
    assert partition.class_cells.tolist() == [[0, 0, expected_deg]]
    assert headings[0] == heading_deg, "the input is left as it was"


@pytest.mark.parametrize(
    "params",
    [
        PartitionParams(min_images_per_class=1),
        PartitionParams(min_images_per_class=3),
        PartitionParams(M=15, alpha=60, N=3, L=2, min_images_per_class=4),
        PartitionParams(M=5, alpha=10, N=2, L=3, min_images_per_class=0),
        PartitionParams(M=20, alpha=360, N=4, L=1, min_images_per_class=2),
        PartitionParams(M=7, alpha=50, N=3, L=1, min_images_per_class=2),
        PartitionParams(N=1, L=1, min_images_per_class=2),
    ],
    ids=str,
)
def test_equals_the_reference_on_random_images(params):
    images = random_images(6000)
    assert_same(make_partition(*images, params), reference(*images, params))


@pytest.mark.parametrize(
    "params",
    [
        PartitionParams(min_images_per_class=1),
        PartitionParams(M=15, alpha=60, N=3, L=3, min_images_per_class=1),
        PartitionParams(M=10, alpha=90, N=2, L=2, min_images_per_class=1),
    ],
    ids=str,
)
def test_images_of_different_classes_of_a_group_do_not_touch(params):
    """At least M(N-1) metres, or alpha(L-1) degrees also across north (paper, section 3.2)."""
    assert params.is_separated_at_north
    east_m, north_m, heading_deg = random_images(1500, extent_m=80.0)
    partition = make_partition(east_m, north_m, heading_deg, params)
    num_pairs = 0
    for classes in as_dict(partition).values():
        for (_, first), (_, second) in combinations(classes.items(), 2):
            for a in first:
                b = np.array(second)
                apart_m = np.maximum(abs(east_m[a] - east_m[b]), abs(north_m[a] - north_m[b]))
                turn_deg = abs(heading_deg[a] - heading_deg[b]) % 360
                turn_deg = np.minimum(turn_deg, 360 - turn_deg)
                far = apart_m >= params.M * (params.N - 1) - 1e-6
                turned = turn_deg >= params.alpha * (params.L - 1) - 1e-6
                assert (far | turned).all()
                num_pairs += len(b)
    assert num_pairs > 1000


@pytest.mark.parametrize(
    ("alpha", "L", "separated"), [(30, 2, True), (90, 3, False), (360, 2, True), (50, 1, False)]
)
def test_separation_at_north_is_known(alpha, L, separated):
    assert PartitionParams(alpha=alpha, L=L).is_separated_at_north is separated


def test_small_classes_are_dropped_and_leave_no_empty_group():
    east_m, north_m, heading_deg = np.array([5.0, 15.0, 15.0]), np.full(3, 5.0), np.full(3, 5.0)
    params = PartitionParams(min_images_per_class=2)
    partition = make_partition(east_m, north_m, heading_deg, params)
    assert as_dict(partition) == {(1, 0, 0): {(10, 0, 0): [1, 2]}}
    nothing = make_partition(east_m[:1], north_m[:1], heading_deg[:1], params)
    assert len(nothing.group_ids) == 0 and nothing.class_starts.tolist() == [0]


def test_positions_that_cannot_be_indexed_are_refused():
    east_m, zeros = np.array([0.0, 1e18]), np.zeros(2)
    with pytest.raises(ValueError, match="UTM coordinates in the file names must be wrong"):
        make_partition(east_m, east_m, zeros, PartitionParams())
    with pytest.raises(ValueError, match="no images"):
        make_partition(zeros[:0], zeros[:0], zeros[:0], PartitionParams())


@pytest.mark.parametrize(
    ("name", "value"),
    [("M", 0), ("N", 0), ("L", -1), ("alpha", 0), ("alpha", 361), ("min_images_per_class", -1)],
)
def test_impossible_parameters_are_refused(name, value):
    with pytest.raises(ValueError, match=f"--{name} "):
        PartitionParams(**{name: value})


@pytest.mark.parametrize(
    "params",
    [
        PartitionParams(min_images_per_class=1),
        PartitionParams(),
        PartitionParams(M=20, alpha=60, N=3, L=2, min_images_per_class=5),
        PartitionParams(M=25, alpha=90, N=2, L=2, min_images_per_class=10),
        PartitionParams(M=100, alpha=360, N=2, L=1, min_images_per_class=50),
    ],
    ids=str,
)
def test_equals_the_reference_on_the_names_of_tokyo_247(params, shared_data, tmp_path):
    names = (shared_data / "tokyo247/database_images_paths.txt").read_text()
    first = tmp_path / "database" / names.split("\n", 1)[0]
    first.parent.mkdir(parents=True)
    first.touch()
    (tmp_path / "database_images_paths.txt").write_text(names)
    paths = list_images(tmp_path / "database")
    assert len(paths) == 75_984
    columns = read_numbers(paths, ("UTM east", "UTM north", "heading"))
    by_hand = [
        [float(line.rsplit("/", 1)[-1].split("@")[k]) for k in (1, 2, 9)]
        for line in names.splitlines()
    ]
    np.testing.assert_array_equal(columns.T, by_hand)
    assert_same(make_partition(*columns, params), reference(*columns, params))


@pytest.mark.parametrize("block", [1, 700])
def test_blocks_are_split_as_the_whole(monkeypatch, block):
    params = PartitionParams(min_images_per_class=3)
    images = random_images(6000)
    whole = make_partition(*images, params)
    monkeypatch.setattr("datasets.partition._IMAGES_PER_BLOCK", block)
    for array, expected in zip(
        vars(make_partition(*images, params)).values(), vars(whole).values(), strict=True
    ):
        np.testing.assert_array_equal(array, expected)


def test_many_classes_far_apart_stay_apart():
    rng = np.random.default_rng(2)
    east_m, north_m = rng.uniform(-6e8, 6e8, (2, 300_000))
    heading_deg = rng.uniform(0, 360, 300_000)
    twice = [np.concatenate((column, column)) for column in (east_m, north_m, heading_deg)]
    params = PartitionParams(alpha=1, L=1, min_images_per_class=2)
    partition = make_partition(*twice, params)
    assert (np.diff(partition.class_starts) == 2).all() and len(partition.images) == 600_000
    pairs = partition.images.reshape(-1, 2)
    assert (pairs[:, 1] == pairs[:, 0] + 300_000).all()
    cells = np.stack((east_m // 10 * 10, north_m // 10 * 10, heading_deg // 1), axis=1)
    np.testing.assert_array_equal(partition.class_cells, cells[pairs[:, 0]])


@pytest.mark.parametrize("side_m", [3, 7, 10])
def test_the_last_number_below_a_border_is_below_it(side_m):
    """Where the quotient itself would round up to the border."""
    borders = side_m * np.arange(-5.0, 60_000.0, 997)
    axis_m = np.concatenate(
        (borders, np.nextafter(borders, -np.inf), np.nextafter(borders, np.inf))
    )
    params = PartitionParams(M=side_m, min_images_per_class=0)
    heading_deg = np.resize([0.0, 30.0, np.nextafter(30, 0), np.nextafter(360, 0)], len(axis_m))
    columns = (axis_m, axis_m[::-1].copy(), heading_deg)
    assert_same(make_partition(*columns, params), reference(*columns, params))
