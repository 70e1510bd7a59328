"""EigenPlaces' classes and views: golden numbers of the original code, and brute force."""

from pathlib import Path

import numpy as np
import pytest
import tiny_backbone  # noqa: F401, LINE names it
import torch
from conftest import name, write_image
from golden_cases import golden
from panorama_folders import flags_of, listed, write_panoramas

from datasets.class_index import load_index
from datasets.groups import Draw, GroupSampler
from datasets.image_names import parse_image_name
from datasets.images import load_image
from datasets.panoramas import (
    PanoramaDataset,
    are_panoramas,
    crop_width,
    cut_crop,
    find_bearing,
    first_column,
    focal_point,
    nearest_crop,
)
from datasets.partition import PanoramaParams, PartitionParams
from training.eigenplaces import EigenPlaces

CASES = ("eigenplaces_a", "eigenplaces_b")
ANGLES = (0, 90)  # of the views, in the order of the original's data sets


@pytest.mark.parametrize("case", CASES)
def test_classes_focal_points_and_crops_are_those_of_the_original(case, tmp_path):
    case = golden(case)
    cfg, names = case.meta["cfg"], case["in.names"].tolist()
    params = PanoramaParams(cfg["M"], N=cfg["N"], min_images_per_class=cfg["min_images"])
    index = load_index(listed(tmp_path / "train", names), params, tmp_path / "cache")
    assert index.num_groups == case["out.n_groups"]
    rows = [row.tolist() for row in case["out.classes_g_angle_e_n_count"]]
    focal = dict(zip(map(tuple, rows), case["out.focal_e_n__mean_e_n"], strict=True))
    columns = {
        tuple(row[:5]): row[5] for row in case["out.crops_g_angle_img_e_n_firstcol"].tolist()
    }
    group_ids = dict(zip(names, case["out.group_id_per_image"].tolist(), strict=True))
    num_columns = 0
    for group in range(index.num_groups):
        for number in index.classes(group):
            (east, north, _), images = index.class_cells[number].tolist(), index.images(number)
            for angle in ANGLES:
                wanted = focal.pop((group, angle, east, north, len(images)))
                axis = index.class_axes[number]
                point = focal_point(axis, angle, cfg["focal_dist"])
                np.testing.assert_allclose([*point, *axis[:2]], wanted, rtol=0, atol=1e-6)
                for image in images:
                    line = index.path(image).removeprefix(f"{index.folder}/")
                    assert group_ids[line] == index.group_ids[group, :2].tolist()
                    seen = parse_image_name(line)
                    bearing = find_bearing(point[0] - seen.utm_east_m, point[1] - seen.utm_north_m)
                    column = first_column(bearing, seen.heading_deg, cfg["pano_width"])
                    assert column == columns[group, angle, names.index(line), east, north]
                    num_columns += 1
    assert not focal and num_columns == len(columns)


def test_axes_are_those_of_one_decomposition_each(tmp_path):
    rng = np.random.default_rng(0)
    lines = [name(*rng.uniform(0, 120, 2), number, pano_id=f"{number}") for number in range(900)]
    params = PanoramaParams(N=2, min_images_per_class=2)
    index = load_index(listed(tmp_path / "train", lines), params, tmp_path / "cache")
    assert len(set(np.diff(index.class_starts).tolist())) > 5
    for number, axis in enumerate(index.class_axes):
        names = [parse_image_name(index.path(image)) for image in index.images(number)]
        positions = np.array([(one.utm_east_m, one.utm_north_m) for one in names])
        centred = positions - positions.mean(axis=0)
        u, _, _ = np.linalg.svd(centred.T, full_matrices=False)
        np.testing.assert_array_equal(axis, [*positions.mean(axis=0), *u[1]])
        spread = centred @ axis[2:]
        for degrees in range(0, 180, 5):  # nowhere are positions less spread
            other = [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]
            assert (spread**2).sum() <= ((centred @ other) ** 2).sum() + 1e-9


def crops_of(east, north, pano_id, first=0, num=12):
    """Return the sorted names of crops every 30 degrees, their headings unpadded."""
    return sorted(name(east, north, (first + 30 * n) % 360, pano_id=pano_id) for n in range(num))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
def test_crops_of_a_panorama_count_once_and_are_found_again(tmp_path, ending):
    panoramas = [crops_of(5 + n, 5, f"p{n}", first=n, num=12 - n) for n in range(3)]
    panoramas += [crops_of(9.5, 5, "", num=3)]  # without a pano id: of one position
    panoramas += [[name(30, 30, heading, pano_id="long", note="x" * 100) for heading in range(99)]]
    panoramas += [crops_of(32, 30, "last", num=2)]
    lines = [line for crops in panoramas for line in crops]
    params = PanoramaParams(min_images_per_class=2)
    index = load_index(listed(tmp_path / "train", lines, ending), params, tmp_path / "cache")
    assert index.num_listed_images == len(lines)
    sizes = [len(index.images(number)) for number in range(len(index.class_cells))]
    assert sorted(sizes) == [2, 4]
    for image in range(6):
        crops = [path.removeprefix(f"{index.folder}/") for path in index.crops(image)]
        assert crops in panoramas
        panoramas.remove(crops)
        assert index.path(image).endswith(crops[0])
    assert not panoramas


def test_a_panorama_whose_crops_are_apart_is_refused(tmp_path):
    lines = crops_of(5, 5, "a") + crops_of(6, 5, "b")
    torn = listed(tmp_path / "train", [*lines[1:], lines[0]])
    with pytest.raises(ValueError, match="those of 1 panoramas do not, such as.*@a@"):
        load_index(torn, PanoramaParams(), tmp_path / "cache")
    alone = [name(5, 5, 10), name(6, 5, 10), name(5, 5, 20)]
    index = load_index(
        listed(tmp_path / "alone", alone), PanoramaParams(min_images_per_class=2), tmp_path / "c"
    )
    assert index.num_images(0) == 3, "without pano ids, images apart are panoramas of their own"


def test_an_index_of_panoramas_is_another_one(tmp_path):
    lines = [line for n in range(6) for line in crops_of(5 + n, 5, f"p{n}")]
    folder = listed(tmp_path / "train", lines)
    plain = PartitionParams(**vars(PanoramaParams()))
    indices = [load_index(folder, params, tmp_path) for params in (plain, PanoramaParams())]
    assert [index.num_images(0) for index in indices] == [72, 6]
    assert indices[0].digest != indices[1].digest and indices[0].class_axes is None
    again = [load_index(folder, params, tmp_path) for params in (plain, PanoramaParams())]
    assert [one.index_folder for one in again] == [one.index_folder for one in indices]


@pytest.mark.parametrize("params", [{"alpha": 30}, {"L": 2}, {"min_images_per_class": 1}, {"M": 0}])
def test_params_of_panoramas_are_checked(params):
    with pytest.raises(ValueError, match=f"--{[*params][0]}"):
        PanoramaParams(**params)


def test_crops_are_cut_around_the_bearing(tmp_path):
    """Columns of the panorama hold their own bearing; the middle one's is asked for."""
    width, rng = 3328, np.random.default_rng(0)
    for heading, bearing in rng.uniform(0, 360, (50, 2)).tolist():
        bearings = (heading + 180 + (np.arange(width) + 0.5) / width * 360) % 360
        panorama = torch.from_numpy(np.stack([bearings] * 3)[:, None])
        crop = cut_crop(panorama, bearing, heading)
        assert crop.shape == (3, 1, 512)
        middle = (crop[0, 0, 255].item() + 180 / width - bearing + 180) % 360 - 180
        assert abs(middle) <= 2.5 * 360 / width  # both parts are cut to whole columns
        steps = np.diff(crop[0, 0].numpy()) % 360
        np.testing.assert_allclose(steps, 360 / width, atol=1e-9)
    assert [crop_width(width) for width in (3328, 1664, 416, 130)] == [512, 256, 64, 20]


def test_the_nearest_crop_looks_most_towards_the_bearing():
    rng = np.random.default_rng(0)
    for _ in range(100):
        headings, bearing = rng.uniform(0, 360, 6).round(2), rng.uniform(0, 360)
        paths = [name(5, 5, heading) for heading in headings]
        middles = headings + 360 * 256 / 3328
        apart = [min((m - bearing) % 360, (bearing - m) % 360) for m in middles]
        assert nearest_crop([name(5, 5), *paths], bearing) == paths[int(np.argmin(apart))]


@pytest.fixture
def panoramas(tmp_path):
    return write_panoramas(tmp_path / "panoramas")


def test_views_are_cut_out_of_panoramas(panoramas, tmp_path):
    index = load_index(panoramas, PanoramaParams(N=1), tmp_path / "cache")
    assert are_panoramas(index)
    dataset = PanoramaDataset(index, None, 0, 10.0, are_whole=True)
    for view, angle in enumerate(ANGLES):
        east, north = np.subtract(focal_point(index.class_axes[0], angle, 10.0), (10.5, 7.1))
        beside = (north, east)[view]  # the street goes to the east
        assert abs(beside) == pytest.approx(10, abs=0.2)
        for draw in (Draw(0, label, seed, view) for label in range(2) for seed in range(8)):
            sample, seen = dataset[draw], parse_image_name(dataset.path(draw))
            point = focal_point(index.class_axes[draw.label], angle, 10.0)
            bearing = find_bearing(point[0] - seen.utm_east_m, point[1] - seen.utm_north_m)
            assert sample.image.shape == (3, 64, 64) and sample.label == draw.label
            panorama = load_image(dataset.path(draw))
            first = first_column(bearing, seen.heading_deg, 416)
            columns = [(first + n) % 416 for n in range(64)]
            assert torch.equal(sample.image, panorama[:, :, columns])
            assert sample.image.stride(0) == 1, "as load_image leaves it"


@pytest.fixture
def crops(tmp_path):
    """Return a folder with the crops of six panoramas of one class."""
    for number in range(6):
        for crop in crops_of(7 + number, 7 + 0.1 * (number % 2), f"p{number}", first=number):
            write_image(tmp_path / "crops" / crop)
    return tmp_path / "crops"


def test_views_are_the_nearest_crops(crops, tmp_path):
    index = load_index(crops, PanoramaParams(), tmp_path / "cache")
    assert not are_panoramas(index)
    dataset = PanoramaDataset(index, None, 0, 10.0, are_whole=False)
    for view, angle in enumerate(ANGLES):
        point = focal_point(index.class_axes[0], angle, 10.0)
        for seed in range(6):
            draw = Draw(0, 0, seed, view)
            seen = parse_image_name(index.path(index.images(0)[seed]))
            assert parse_image_name(dataset.path(draw)).pano_id == seen.pano_id
            bearing = find_bearing(point[0] - seen.utm_east_m, point[1] - seen.utm_north_m)
            middle = parse_image_name(dataset.path(draw)).heading_deg + 360 * 256 / 3328
            assert abs((middle - bearing + 180) % 360 - 180) <= 15 + 1e-9
            assert torch.equal(dataset[draw].image, load_image(dataset.path(draw)))


def test_an_image_that_is_no_panorama_is_replaced(panoramas, tmp_path):
    index = load_index(panoramas, PanoramaParams(N=1), tmp_path / "cache")
    dataset = PanoramaDataset(index, None, 0, 10.0, are_whole=True)
    draw = Draw(0, 1, 3, 1)
    write_image(panoramas / dataset.path(draw), size=(64, 64))
    sample = dataset[draw]
    assert sample.image.shape == (3, 64, 64) and sample.label == 1
    assert "is 64x64, no strip of 360 degrees" in sample.unreadable[0]


def test_a_crop_that_cannot_be_read_gives_way_to_the_next_panorama(crops, tmp_path):
    index = load_index(crops, PanoramaParams(), tmp_path / "cache")
    dataset = PanoramaDataset(index, None, 0, 10.0, are_whole=False)
    path = Path(dataset.path(Draw(0, 0, 2, 1)))
    path.write_bytes(b"no image")
    sample = dataset[Draw(0, 0, 2, 1)]
    assert torch.equal(sample.image, load_image(dataset.path(Draw(0, 0, 3, 1))))
    assert len(sample.unreadable) == 1 and path.name in sample.unreadable[0]


def test_a_mix_of_panoramas_and_crops_is_refused(panoramas, tmp_path):
    index = load_index(panoramas, PanoramaParams(N=1), tmp_path / "cache")
    crop = write_image(Path(index.path(len(index.image_offsets) - 1)), (64, 64))
    with pytest.raises(ValueError, match="holds both panoramas and crops: ") as error:
        are_panoramas(index)
    assert f"{crop} is not. Put them into two folders" in str(error.value)
    assert f"{index.path(0)} is a strip of 360 degrees" in str(error.value)


def test_groups_of_one_class_are_told(panoramas, tmp_path):
    told = {}
    for n in (1, 2):
        index = load_index(panoramas, PanoramaParams(N=n), tmp_path / "cache")
        objective = EigenPlaces(index, flags_of("--groups_num=1"), are_whole=True)
        told[len(index.classes(0))] = objective.describe()
    assert "Epochs of group 0 teach nothing: it has one class" in told[1]
    assert "teach nothing" not in told[2]


def test_whether_images_are_panoramas_is_said_by_the_first_that_opens(panoramas, tmp_path):
    index = load_index(panoramas, PanoramaParams(N=1), tmp_path / "cache")
    files = [index.path(image) for image in range(len(index.image_offsets))]
    for file in files[:-1]:
        Path(file).write_bytes(b"no image")
    assert are_panoramas(index)
    Path(files[-1]).unlink()
    with pytest.raises(ValueError, match="panoramas or crops is not known: The image .* cannot be"):
        are_panoramas(index)


def test_crops_are_sampled_for_clusters_and_whitenings(crops, tmp_path):
    index = load_index(crops, PanoramaParams(), tmp_path / "cache")
    objective = EigenPlaces(index, flags_of("--groups_num=1"), are_whole=False)
    assert sorted(objective.sample_images(10**6)) == sorted(map(str, crops.rglob("*.jpg")))
    some = [*objective.sample_images(7)]
    assert len(set(some)) == 7 and some == [*objective.sample_images(7)]
    assert len({parse_image_name(path).pano_id for path in some}) > 2
    assert "are crops, 12.0 of a panorama" in objective.describe()


def test_few_crops_are_warned_of(tmp_path):
    lines = [line for n in range(6) for line in crops_of(5 + n, 5, f"p{n}", num=2)]
    index = load_index(listed(tmp_path / "train", lines), PanoramaParams(), tmp_path / "cache")
    objective = EigenPlaces(index, flags_of("--groups_num=1"), are_whole=False)
    assert "are crops, 2.0 of a panorama" in objective.describe()
    assert "with so few may look elsewhere" in objective.describe()


def test_batches_have_draws_of_each_view(panoramas, tmp_path):
    index = load_index(panoramas, PanoramaParams(N=1), tmp_path / "cache")
    plain = GroupSampler(index, 1, 4, 10, seed=3)
    both = GroupSampler(index, 1, 4, 10, seed=3, num_views=2)
    shares = [GroupSampler(index, 1, 4, 10, 3, (rank, 2), num_views=2) for rank in range(2)]
    assert all(draw.view == 0 for batch in plain for draw in batch)
    for iteration, (batch, *parts) in enumerate(zip(both, *shares, strict=True)):
        assert [draw.view for draw in batch] == [0] * 4 + [1] * 4
        for view in range(2):
            own = [draw for part in parts for draw in part if draw.view == view]
            assert own == batch[4 * view : 4 * view + 4]
            assert sorted(draw.label for draw in own) == [0, 0, 1, 1], "classes take turns"
        assert both.batch(0, iteration) == batch
    both.first_iteration = 7
    assert len(list(both)) == 3
