"""Files of 6-DoF poses, and the errors of predicted poses, against rotations made by hand."""

import csv
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import name, write_image
from scipy.spatial.transform import Rotation

from datasets.eval_set import load_own_set
from datasets.image_names import parse_image_name
from datasets.poses import read_poses
from eval import main as eval_main
from evaluation.evaluate import Evaluation
from evaluation.poses import (
    CROP_DEG,
    compare,
    fuse,
    headings_of,
    level_rotations,
    load_poses,
    measure_poses,
    summarise,
    weigh,
)
from evaluation.results import format_poses

EAST_M, NORTH_M = 550000.0, 4180000.0
COLUMNS = "image,utm_east_m,utm_north_m,qw,qx,qy,qz"


def reference_line(image, heading_deg, east_m=EAST_M, north_m=NORTH_M):
    """Return a line of the published format: a level camera, world to camera.

    Facing north, that is the turn by 90 degrees about x, (1, 1, 0, 0) / sqrt 2; a heading turns the
    world counter-clockwise before: (1, 1, 0, 0) (c, 0, 0, s) = (c, c, -s, s).
    """
    half = math.radians(heading_deg) / 2
    c, s = math.cos(half) / math.sqrt(2), math.sin(half) / math.sqrt(2)
    return f"0 {image} {c:.9f} {c:.9f} {-s:.9f} {s:.9f} {east_m:.4f} {north_m:.4f} -1.25\n"


def cameras(*headings_deg):
    return level_rotations(np.array(headings_deg, float)).as_quat()


# ---- frames ----


def test_level_cameras_have_their_axes_where_the_compass_says():
    north, east = level_rotations(np.array([0.0, 90.0])).as_matrix()
    right, down, forward = north.T.round(12)
    assert (right.tolist(), down.tolist(), forward.tolist()) == ([1, 0, 0], [0, 0, -1], [0, 1, 0])
    right, down, forward = east.T.round(12)
    assert (right.tolist(), forward.tolist()) == ([0, -1, 0], [1, 0, 0])
    headings_deg = np.array([0, 10.0, 90, 179, 200, 359])
    found = headings_of(level_rotations(headings_deg)) % 360
    np.testing.assert_allclose(found, headings_deg, atol=1e-9)


def test_the_published_format_turns_the_world_into_the_camera(tmp_path):
    file = tmp_path / "q_poses.txt"
    text = '# ["0 <image name> <1x4 quaternion> <1x3 camera position>"] x 2 images. \n'
    file.write_text(text + reference_line("0000", 0) + reference_line("two words", 205.5, 7, 8))
    poses = read_poses(file)
    assert poses.rows == {"0000": 0, "two words": 1}
    assert poses.utm_m.tolist() == [[EAST_M, NORTH_M], [7, 8]]
    expected = level_rotations(np.array([0, 205.5]))
    errors = (Rotation.from_quat(poses.quaternions).inv() * expected).magnitude()
    np.testing.assert_allclose(errors, 0, atol=1e-7)


def test_the_mini_city_writes_what_is_read(datasets_folder, tmp_path):
    file = datasets_folder / "mini_city/processed/test/queries_v2_poses.csv"
    poses = read_poses(file)
    with open(file) as lines:
        rows = list(csv.DictReader(lines))
    rotations = Rotation.from_quat(poses.quaternions)
    axes = rotations.apply([0, 0, 1])
    rights = rotations.apply([1, 0, 0])
    for index, row in enumerate(rows):
        heading, pitch, roll = (
            math.radians(float(row[f"{angle}_deg"])) for angle in ("heading", "pitch", "roll")
        )
        level = math.cos(pitch)
        expected = (math.sin(heading) * level, math.cos(heading) * level, math.sin(pitch))
        np.testing.assert_allclose(axes[index], expected, atol=1e-5)
        # clockwise for the photographer: the right side goes down
        assert rights[index, 2] == pytest.approx(-math.sin(roll) * level, abs=1e-5)
    lines = [
        f"0 {row['image']} {row['qw']} {-float(row['qx'])} {-float(row['qy'])} {-float(row['qz'])} "
        f"{row['utm_east_m']} {row['utm_north_m']} 0\n"
        for row in rows
    ]
    (tmp_path / "a_poses.txt").write_text("".join(lines))
    same = read_poses(tmp_path / "a_poses.txt")
    assert same.rows == poses.rows
    np.testing.assert_allclose(np.abs((same.quaternions * poses.quaternions).sum(axis=1)), 1)


def test_headers_may_follow_comments_and_cells_a_space(tmp_path):
    file = tmp_path / "q_poses.txt"
    file.write_text("# made by us\n\nidx name w x y z e n h\n" + reference_line("a", 90))
    assert read_poses(file).rows == {"a": 0}
    file = tmp_path / "q_poses.csv"
    file.write_text(f"{COLUMNS}\na,1,2,1,0,0,0\n".replace(",", ", "))
    assert read_poses(file).utm_m.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("ending", "text", "sentence"),
    [
        ("txt", "", "has no poses"),
        ("txt", "# header\n\n", "has no poses"),
        ("txt", "0 a 1 0 0 0 1 2\n", "Line 1 of {} has 8 values: lines are 0 NAME qw qx qy qz"),
        ("txt", "idx name w x y z e n h\n0 a 1 0 0 0 1 x 3\n", "Line 2 of {} has no number where"),
        ("txt", "0 a 1 0 0 0 nan 2 3\n", "Line 1 of {} has no number where"),
        ("txt", "0 a 1 1 0 0 1 2 3\n", "Line 1 of {} has a quaternion of length 1.414, not 1"),
        ("txt", "0 a 1 0 0 0 1 2 3\n0 a 1 0 0 0 1 2 3\n", "Line 2 of {} has the image 'a' again"),
        ("csv", "", "{} has no column image, utm_east_m"),
        ("csv", "image,qw\na,1\n", "{} has no column utm_east_m, utm_north_m, qx"),
        ("csv", f"{COLUMNS}\n", "has no poses"),
        ("csv", f"{COLUMNS}\na,1,2,1,0,0\n", "Line 2 of {} has no number where"),
        ("csv", f"{COLUMNS}\na,1,2,0,0,0,0\n", "Line 2 of {} has a quaternion of length 0.000"),
    ],
)
def test_malformed_files_are_sentences(tmp_path, ending, text, sentence):
    file = tmp_path / f"queries_poses.{ending}"
    file.write_text(text)
    with pytest.raises(ValueError) as error:
        read_poses(file)
    assert sentence.format(file) in str(error.value)


def test_any_bytes_are_read_or_a_sentence(tmp_path):
    for ending in ("txt", "csv"):
        file = tmp_path / f"queries_poses.{ending}"
        file.write_bytes(bytes(range(256)) * 20)
        with pytest.raises(ValueError, match=f"queries_poses.{ending}"):
            read_poses(file)


# ---- errors ----


def test_errors_are_those_of_matrices():
    rng = np.random.default_rng(0)
    found, true = Rotation.random(50, random_state=1), Rotation.random(50, random_state=2)
    found_m, true_m = rng.normal(size=(2, 50, 2))
    position_m, heading_deg, rotation_deg = compare(
        found_m, -found.as_quat(), true_m, true.as_quat()
    )
    for index in range(50):
        one, other = found.as_matrix()[index], true.as_matrix()[index]
        angle = math.acos((np.trace(one.T @ other) - 1) / 2)
        assert rotation_deg[index] == pytest.approx(math.degrees(angle))
        azimuths = [math.atan2(matrix[0, 2], matrix[1, 2]) for matrix in (one, other)]
        turn = math.acos(math.cos(azimuths[0] - azimuths[1]))
        assert heading_deg[index] == pytest.approx(math.degrees(turn))
        assert position_m[index] == pytest.approx(math.dist(found_m[index], true_m[index]))


def test_errors_across_north_and_unknown_ones():
    quaternions = cameras(359, 180, 0)
    quaternions[2] = np.nan
    position_m, heading_deg, rotation_deg = compare(
        np.array([[3.0, 4], [0, 0], [np.nan, 0]]), quaternions, np.zeros((3, 2)), cameras(2, 0, 0)
    )
    np.testing.assert_allclose(position_m, [5, 0, np.nan])
    np.testing.assert_allclose(heading_deg, [3, 180, np.nan], atol=1e-9)
    np.testing.assert_allclose(rotation_deg, [3, 180, np.nan], atol=1e-9)


def test_shares_are_of_all_queries_and_limits_inclusive():
    position_m = np.array([0.25, 0.4, 5.0, 0.1, np.nan])
    rotation_deg = np.array([2.0, 5.0, 10.1, np.nan, np.nan])
    errors = summarise(position_m, np.array([1.0, 2, 3, np.nan, np.nan]), rotation_deg)
    assert errors["within_percent"] == {
        "0.25 m, 2 deg": 20.0,
        "0.5 m, 5 deg": 40.0,
        "5 m, 10 deg": 40.0,
    }
    assert errors["position_error_m"] == pytest.approx(
        {"q25": 0.2125, "median": 0.325, "q75": 1.55, "q90": 3.62}
    )
    assert errors["heading_error_deg"]["median"] == 2
    unknown = summarise(*np.full((3, 2), np.nan))
    assert set(unknown["rotation_error_deg"].values()) == {None}


# ---- fusion ----


def test_weights_are_powers_of_the_cosine():
    distances = np.array([[0, 1, math.sqrt(2), 2], [np.sqrt(3), 5, 1e9, np.inf]])
    weights = weigh(np.array([[5, 6, 7, 8], [5, 6, 7, -1]]), distances)
    np.testing.assert_allclose(weights[0], [1, 0.5**8, 0, 0], atol=1e-12)
    assert weights[1].tolist() == [1, 1, 1, 0], "none is similar: equal weights"


def test_fused_poses_by_hand():
    positions_m = np.array([[[0.0, 0], [4, 8], [99, 99]]] * 2)
    quaternions = np.stack([cameras(350, 20, 90), -cameras(350, 20, 90)])
    quaternions[1, 1] *= -1  # q and -q are one rotation
    weights = np.array([[1.0, 1, 0], [3, 1, 0]])
    fused_m, fused = fuse(positions_m, quaternions, weights)
    np.testing.assert_allclose(fused_m, [[2, 4], [1, 2]])
    headings_deg = headings_of(Rotation.from_quat(fused))
    assert headings_deg[0] == pytest.approx(5)
    # of weighted vectors of the double angle of quaternions, that is of the heading itself
    mean = 3 * np.exp(1j * math.radians(-10)) + np.exp(1j * math.radians(20))
    assert headings_deg[1] == pytest.approx(np.degrees(np.angle(mean)))


def test_fused_rotations_minimise_the_weighted_squared_distance():
    rng = np.random.default_rng(3)
    rotations, weights = Rotation.random(5, random_state=4), rng.uniform(0.1, 1, 5)
    quaternions = rotations.as_quat()
    _, fused = fuse(np.zeros((1, 5, 2)), quaternions[None], weights[None])
    values, vectors = np.linalg.eigh(np.einsum("k,ki,kj->ij", weights, quaternions, quaternions))
    assert abs(fused[0] @ vectors[:, -1]) == pytest.approx(1)

    def cost(rotation):
        matrices = rotations.as_matrix() - rotation.as_matrix()
        return (weights * (matrices**2).sum(axis=(1, 2))).sum()

    best = Rotation.from_quat(fused[0])
    others = [Rotation.from_rotvec(rng.normal(size=3) * size) for size in (1e-3, 0.1, 1) * 30]
    assert all(cost(best) < cost(best * other) for other in others)


def test_fusion_uses_what_is_known():
    quaternions = cameras(10, 30, 0)[None].repeat(2, axis=0)
    quaternions[:, 0] = np.nan
    positions_m = np.array([[[2.0, 2], [4, 4], [np.nan, np.nan]]] * 2)
    fused_m, fused = fuse(positions_m, quaternions, np.array([[1.0, 1, 0], [0, 0, 0]]))
    assert fused_m[0].tolist() == [3, 3]
    assert headings_of(Rotation.from_quat(fused[:1])) == pytest.approx([30])
    assert np.isnan(fused_m[1]).all() and np.isnan(fused[1]).all(), "no predictions"


# ---- sets ----


def make_set(folder, headings_deg=(0, 90, None), size=(32, 32)):
    """Write a database 10 m apart to the east, and queries at its positions with pano ids."""
    for role in ("database", "queries"):
        for number, heading_deg in enumerate(headings_deg):
            file = name(
                EAST_M + 10 * number,
                NORTH_M,
                heading_deg if role == "database" else None,
                pano_id=f"{number:04d}" if role == "queries" else "",
            )
            write_image(folder / role / file, size if role == "database" else (32, 24))
    return folder


def evaluation_of(eval_set, predictions, distances):
    result = {"recalls": {}}
    return Evaluation(eval_set, result, np.array(predictions), np.array(distances))


def measure(folder, predictions, distances, top_k=2):
    eval_set = load_own_set(folder)
    poses = load_poses(eval_set)
    evaluation = evaluation_of(eval_set, predictions, distances)
    return measure_poses({eval_set.name: poses}, top_k, evaluation)["poses"]


def test_headings_of_crops_are_of_their_leftmost_column(tmp_path):
    """The queries look where crops of headings 0 and 90 do, the third where its name says not."""
    folder = make_set(tmp_path / "set")
    lines = [reference_line(f"000{n}", 90 * n + CROP_DEG / 2, EAST_M + 10 * n) for n in range(3)]
    (folder / "queries_poses.txt").write_text("".join(lines))
    poses = measure(folder, [[0, 1], [0, 1], [2, 0]], [[0.0, 2], [1, 1], [0, 2]])
    assert poses["num_queries"] == 3 and poses["top_k"] == 2
    # the top-1 is right; 10 m and 90 degrees off; right but without a heading
    assert poses["top1"]["position_error_m"] == {"q25": 0, "median": 0, "q75": 5, "q90": 8}
    assert poses["top1"]["heading_error_deg"]["median"] == pytest.approx(45)
    assert poses["top1"]["within_percent"]["0.25 m, 2 deg"] == pytest.approx(100 / 3)
    assert poses["notes"] == [
        "1 queries have a top-1 without a heading: they count as not within",
    ]
    # fused, the second one is in the middle of both, with the heading between them
    assert poses["fused"]["position_error_m"]["q75"] == pytest.approx(2.5)
    assert poses["fused"]["rotation_error_deg"]["q75"] == pytest.approx(0.75 * 45)
    text = format_poses(poses)
    assert "leftmost column of crops of 55.4 deg" in text and "top-2 fused" in text
    assert "within 0.25 m, 2 deg, % of queries" in text and "33.3" in text


def test_headings_of_other_images_are_of_their_middle(tmp_path):
    folder = make_set(tmp_path / "set", (0, 90), size=(48, 32))
    lines = [reference_line(f"000{n}", 90 * n + 1, EAST_M + 10 * n + 0.2) for n in range(2)]
    (folder / "queries_poses.txt").write_text("".join(lines))
    poses = measure(folder, [[0], [1]], [[0.0], [0.0]])
    assert poses["top1"]["position_error_m"]["median"] == pytest.approx(0.2)
    assert poses["top1"]["rotation_error_deg"]["median"] == pytest.approx(1)
    assert poses["top1"]["within_percent"]["0.25 m, 2 deg"] == 100
    assert "of the middle of the image" in poses["protocol"]


def test_poses_of_the_database_replace_those_of_names(tmp_path):
    folder = make_set(tmp_path / "set")
    (folder / "queries_poses.txt").write_text(reference_line("0001", 30))
    image = sorted(path.name for path in (folder / "database").iterdir())[1]
    (folder / "database_poses.txt").write_text(reference_line(image, 33, EAST_M, NORTH_M - 4))
    poses = measure(folder, [[1]] * 3, [[0.5]] * 3, top_k=1)
    assert poses["num_queries"] == 1
    for errors in (poses["top1"], poses["fused"]):
        assert errors["position_error_m"]["median"] == pytest.approx(4, abs=0.01)
        assert errors["rotation_error_deg"]["median"] == pytest.approx(3)
        assert errors["within_percent"]["5 m, 10 deg"] == 100
    assert poses["protocol"].startswith(
        "queries_poses.txt against database poses by database_poses"
    )
    assert poses["notes"] == [
        "2 of 3 queries have no pose in queries_poses.txt",
        "1 queries are more than 1 m from the position in their name, up to 10.0 m, in "
        "queries_poses.txt",
    ]


def test_queries_without_predictions_are_not_within(tmp_path):
    folder = make_set(tmp_path / "set", (0, 90))
    lines = [reference_line(f"000{n}", 90 * n + CROP_DEG / 2, EAST_M + 10 * n) for n in range(2)]
    (folder / "queries_poses.txt").write_text("".join(lines))
    poses = measure(folder, [[0, 1], [-1, -1]], [[0.0, 2], [np.inf, np.inf]])
    for errors in (poses["top1"], poses["fused"]):
        assert errors["within_percent"]["0.25 m, 2 deg"] == 50
        assert errors["position_error_m"]["q90"] == pytest.approx(0, abs=1e-3)
    assert poses["notes"] == ["1 queries have no prediction: they count as not within"]


def test_sets_without_poses_and_files_of_other_sets(tmp_path, caplog):
    folder = make_set(tmp_path / "set")
    eval_set = load_own_set(folder)
    assert load_poses(eval_set) is None
    assert measure_poses({eval_set.name: None}, 5, evaluation_of(eval_set, [[0]], [[0]])) == {}
    (folder / "queries_poses.txt").write_text(reference_line("elsewhere", 0))
    with pytest.raises(ValueError, match="names none of the 3 queries: it has 'elsewhere'"):
        load_poses(eval_set)
    assert load_poses(replace(eval_set, positions=None)) is None
    assert "queries_poses.txt is not used: " in caplog.text


def test_quaternions_of_another_convention_are_noted(tmp_path):
    folder = make_set(tmp_path / "set")
    rows = [
        f"000{n},{EAST_M + 10 * n},{NORTH_M}," + ",".join(line.split()[2:6])
        for n in range(3)
        for line in [reference_line("a", 100 + n)]
    ]
    (folder / "queries_poses.csv").write_text("\n".join([COLUMNS, *rows]))  # not turned around
    [note] = load_poses(load_own_set(folder)).notes
    assert "are tilted by" in note and "another convention" in note


# ---- eval.py ----


def test_eval_reports_poses_of_the_mini_city(eval_flags, datasets_folder, tmp_path, capfd):
    eval_main([*eval_flags, "--dataset=mini_city_test_v2", "--pose_top_k=3"])
    folder = tmp_path / "run"
    poses = json.loads((folder / "results.json").read_text())["poses"]
    file = datasets_folder / "mini_city/processed/test/queries_v2_poses.csv"
    with open(file) as lines:
        true = {row["image"]: row for row in csv.DictReader(lines)}
    with open(folder / "predictions.csv") as lines:
        ranked = [row for row in csv.DictReader(lines) if int(row["rank"]) <= 3]
    assert poses["num_queries"] == len(true) == 10 and poses["top_k"] == 3
    errors = {"top1": [], "fused": []}
    for query_num in range(10):
        rows = [row for row in ranked if int(row["query_num"]) == query_num]
        expected = true[rows[0]["query"].rpartition("/")[2]]
        place = complex(float(expected["utm_east_m"]), float(expected["utm_north_m"]))
        names = [parse_image_name(row["prediction"]) for row in rows]
        places = np.array([complex(one.utm_east_m, one.utm_north_m) for one in names])
        weights = [(1 - float(row["descriptor_distance"]) ** 2 / 2) ** 8 for row in rows]
        errors["top1"].append(abs(places[0] - place))
        errors["fused"].append(abs(np.average(places, weights=weights) - place))
        turn = names[0].heading_deg + CROP_DEG / 2 - float(expected["heading_deg"])
        errors.setdefault("turns", []).append(abs((turn + 180) % 360 - 180))
    for kind in ("top1", "fused"):
        found = poses[kind]["position_error_m"]["median"]
        assert found == pytest.approx(np.median(errors[kind]), abs=0.01)
    found = poses["top1"]["heading_error_deg"]["q75"]
    assert found == pytest.approx(np.quantile(errors["turns"], 0.75), abs=0.01)
    printed, page = capfd.readouterr().out, (folder / "report.html").read_text()
    assert "Poses of 10 queries: queries_v2_poses.csv against" in printed
    median = f"{poses['fused']['position_error_m']['median']:.2f} ("
    assert median in printed and f"<td>{median}" in page and "top-3 fused" in page


def test_a_malformed_file_ends_before_anything_is_extracted(
    eval_flags, datasets_folder, tmp_path, refused
):
    test_folder = tmp_path / "sets/mini_city/processed/test"
    for part in ("database", "queries_v2"):
        shutil.copytree(datasets_folder / "mini_city/processed/test" / part, test_folder / part)
    (test_folder / "queries_v2_poses.csv").write_text(f"{COLUMNS}\na,b,c,d,e,f,g\n")
    flags = [*eval_flags, f"--test_set_folder={test_folder}", "--queries_folder=queries_v2"]
    said = refused(eval_main, flags, 1)
    assert "Line 2 of" in said and "has no number where one must be" in said
    assert not (tmp_path / "run").exists()
