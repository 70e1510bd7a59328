"""What the check finds out from names: positions, zones, headings, positives, classes."""

import numpy as np
import pytest
import utm
from conftest import name

from datasets.image_lists import list_images, split_lines
from datasets.image_names import read_fields
from datasets.partition import PartitionParams
from datasets.positions import Utm, read_utm
from tools.check.classes import check_classes
from tools.check.findings import ERROR, FACT, OK, WARNING, Section
from tools.check.image_files import ImageFacts
from tools.check.names import check_names, measure_contradictions
from tools.check.pairs import CheckedFolder, check_pair


def listed(names, folder):
    blob = np.frombuffer("\n".join(names).encode(), np.uint8)
    return split_lines(folder, blob)


@pytest.fixture
def measured(tmp_path):
    """Return a function from names to the findings about them, for training and evaluation."""

    def measure(names):
        paths = listed(names, tmp_path)
        return check_names(paths, True)[2], check_names(paths, False)[2]

    return measure


def of(findings, subject):
    return [finding for finding in findings if finding.subject == subject]


def levels(findings, subject):
    return [finding.level for finding in findings if finding.subject == subject]


def test_sound_names(measured, tmp_path):
    east_m, north_m, zone, letter = utm.from_latlon(37.77, -122.42)
    names = [
        name(
            *(east_m + 10 * k, north_m, 30 * k),
            **{"zone_number": zone, "zone_letter": letter, "pano_id": f"{k}"},
            **{"latitude_deg": 37.77, "longitude_deg": -122.42, "timestamp": f"20{k:02d}06"},
        )
        for k in range(2)
    ]
    paths = listed([names[0], f"sub/{names[1]}"], tmp_path)
    positions, heading_deg, training = check_names(paths, True)
    assert heading_deg.tolist() == [0, 30] and positions.zones.tolist() == [10, 10]
    assert np.ptp(positions.east_m) == pytest.approx(10) and positions.is_known.all()
    [area] = of(training, "area")
    assert area.text == "zone 10 north: 2 images at 2 places, 10 m east-west x 0 m north-south"
    assert of(training, "years")[0].text == "2000: 1, 2001: 1"
    [far] = of(training, "lat, lon")
    assert far.level == WARNING and far.details == (f"sub/{names[1]}",)
    assert "more than 5 m from the UTM position in 1 of 2 names, at most 10 m" in far.text
    assert levels(training, "positions") == levels(training, "headings") == [OK]
    assert levels(measured(names[:1])[0], "lat, lon") == [OK]


def test_names_without_position_or_heading(measured):
    names = ["photo.jpg", "@1@@.jpg", "@east@2@.jpg", "@5e5@4e6@10@S@@@p@@@@@@@@.jpg"]
    names += ["@5e5@4e6@10@S@@@p@@N@@@@@@.jpg", "@5e5@4e6@10@S@@@p@@-1@@@@@@.jpg"]
    names += ["@5e5@4e6@10@S@@@p@@360@@@@@@.jpg"]
    training, evaluation = measured(names)
    [missing] = of(training, "positions")
    assert missing.level == ERROR and missing.details[:3] == tuple(names[:3])
    assert missing.text.startswith("3 of 7 names have no UTM position")
    no_heading, odd = of(training, "headings")
    assert (no_heading.level, odd.level) == (ERROR, WARNING)
    assert no_heading.details == (names[3], names[4]) and odd.details == (names[5], names[6])
    assert "field 9 of 2 names" in no_heading.remedy
    assert levels(evaluation, "headings") == [FACT, WARNING]
    assert levels(evaluation, "positions") == [ERROR]
    training, _ = measured(names[:3])
    assert not of(training, "area") and not of(training, "headings")


def test_headings_that_are_all_zero(measured):
    training, _ = measured(["@5e5@4e6@@@@@a@@0@@@@@@.jpg", "@5e5@4e6@@@@@b@@000@@@@@@.jpg"])
    [finding] = of(training, "headings")
    assert finding.level == WARNING and "all 2 are 0" in finding.text


def test_zones_and_hemispheres(measured):
    north, south, none = "@5e5@4e6@54@S@", "@5e5@6e6@54@j@", "@5e5@6e6@@@"
    names = [north + "a@.jpg", north + "b@.jpg", south + "@.jpg", none + ".jpg"]
    _, evaluation = measured(names)
    areas = [finding.text for finding in evaluation if "east-west" in finding.text]
    assert [area.split(" at ")[0] for area in areas] == [
        *("zone 54 north: 2 images", "zone 54 south: 1 image", "without a zone: 1 image")
    ]
    assert levels(evaluation, "UTM zones") == [WARNING], "evaluation projects them"
    _, evaluation = measured([north + ".jpg", none + ".jpg"])
    assert levels(evaluation, "UTM zones") == [], "a zone and none is not several"
    training, _ = measured(["@5e5@4e6@10@S@.jpg", "@5e5@4e6@11@S@.jpg", "photo.jpg"])
    assert levels(training, "UTM zones") == [ERROR], "training does not"


def test_positions_that_are_not_utm(measured):
    _, findings = measured(["@37.77@-122.42@.jpg", "@37.78@-122.43@.jpg"])
    assert levels(findings, "positions") == [OK, ERROR]
    assert "latitude and longitude in degrees" in of(findings, "positions")[1].text
    _, findings = measured([f"@0@{k * 25 / 10.5:07.1f}@@@@@{k}@@@@@@@@.jpg" for k in range(40)])
    assert levels(findings, "positions") == [OK, WARNING], "frames on a line are no degrees"
    assert of(findings, "positions")[1].text.startswith("40 names with UTM coordinates of no place")


def test_latitude_and_longitude_of_all_zones_are_compared(measured, tmp_path):
    rng = np.random.default_rng(0)
    names = []
    for latitude, longitude in zip(
        rng.uniform(-79, 83.9, 300), rng.uniform(-180, 180, 300), strict=True
    ):
        east_m, north_m, zone, letter = utm.from_latlon(latitude, longitude)
        zone, letter = (None, "") if len(names) % 3 == 0 else (zone, letter)
        position = {"latitude_deg": latitude, "longitude_deg": longitude}
        names.append(name(east_m, north_m, zone_number=zone, zone_letter=letter, **position))
    paths = listed(names, tmp_path)
    degrees = read_fields(paths, ("latitude", "longitude"))
    distances_m = measure_contradictions(read_utm(paths, required=False), *degrees)
    assert len(distances_m) == 300 and 0.1 < distances_m.max() < 1
    assert of(measured(names)[1], "lat, lon")[0].text.startswith("agree with UTM in 300 names")
    nowhere = ["@5e5@4e6@10@S@95@10@.jpg", "@5e5@4e6@10@S@10@999@.jpg", "@5e5@4e6@10@S@10@@.jpg"]
    [far] = of(measured(names + nowhere)[1], "lat, lon")
    assert far.level == WARNING and far.text.endswith("UTM position in 2 of 302 names:")


def test_same_names_and_timestamps(measured):
    names = ["a/@5e5@4e6@1@.jpg", "b/@5e5@4e6@1@.jpg", "b/@5e5@4e6@1@.jpg", "a/1.jpg", "b/1.jpg"]
    [same] = of(measured(names)[1], "duplicates")
    assert same.details == ("b/@5e5@4e6@1@.jpg",), "listed twice is another flaw"
    assert same.level == WARNING and same.text.startswith("1 image with the name")
    times = ["2014", "201406", "20080101_101010", ""]
    names = [f"@5e5@4e6@@@@@{t}@@@@@@{t}@@.jpg" for t in times]
    assert of(measured(names)[1], "years")[0].text == "2008: 1, 2014: 2"
    names += [f"@5e5@4e6@@@@@{t}@@@@@@{t}@@.jpg" for t in ("14", "june")]
    [bad] = of(measured(names)[1], "timestamps")
    assert bad.level == WARNING and bad.text.endswith("in 2 names:")


def folder_of(names, positions, tmp_path):
    paths = listed(names, tmp_path)
    return CheckedFolder(paths, positions, ImageFacts(0, False), Section("", "", ()))


def utm_of(east_m, north_m, zones):
    """Positions with zones as 10 (north), -10 (south) or 0 (unknown)."""
    east_m, north_m, zones = (np.asarray(column, float) for column in (east_m, north_m, zones))
    letters = np.select([zones < 0, zones > 0], [ord("J"), ord("S")]).astype(np.uint8)
    return Utm(east_m, north_m, np.where(zones == 0, np.nan, abs(zones)), letters)


def test_positives_are_those_of_brute_force(tmp_path):
    rng = np.random.default_rng(0)
    sides = []
    for num in (400, 60):
        columns = np.round(rng.uniform(0, 100, (2, num)), -1)  # many at the same place
        columns[0, 3] = np.nan
        zones = rng.choice([10, 33], num)
        names = [f"{index}.jpg" for index in range(num)]
        sides.append((names, columns, zones))
    (_, database, database_zones), (_, queries, query_zones) = sides
    for zones in (query_zones, query_zones * 0):  # an unknown zone is the most frequent one
        most = 33 if (database_zones == 33).sum() > 200 else 10
        expected = []
        for (east_m, north_m), zone in zip(queries.T, zones, strict=True):
            near = np.hypot(database[0] - east_m, database[1] - north_m) <= 10
            if not np.isnan(east_m):
                expected.append(int((near & (database_zones == (zone or most))).sum()))
        folders = [
            folder_of(names, utm_of(*columns, of_zones), tmp_path)
            for (names, columns, _), of_zones in zip(sides, (database_zones, zones), strict=True)
        ]
        text = check_pair(*folders, threshold_m=10)[0].text
        without, found = expected.count(0), [num for num in expected if num]
        assert f"{np.median(found):g}" == text.rpartition(" ")[2]
        assert text.startswith(f"{without} of 59 queries have none" if without else "every query")


def test_pairs(tmp_path):
    queries = ["@500025@4e6@q@.jpg", "y/@5e5@4e6@a@.jpg", "@6e5@4e6@r@.jpg", "1.jpg"]
    sides = [
        folder_of(
            ["@5e5@4e6@a@.jpg", "@5e5@4e6@b@.jpg", "x/1.jpg"],
            utm_of([5e5, 5e5, np.nan], [4e6, 4e6, np.nan], [10, 10, 0]),
            tmp_path,
        ),
        folder_of(
            queries,
            utm_of([500025, 5e5, 6e5, np.nan], [4e6] * 3 + [np.nan], [10, 10, 33, 0]),
            tmp_path,
        ),
    ]
    positives, note, overlap = check_pair(*sides, threshold_m=25)
    assert positives.level == WARNING and positives.details == ("@6e5@4e6@r@.jpg",)
    assert "1 of 3 queries have none within 25 m: no R@N exceeds 66.7" in positives.text
    assert positives.text.endswith("in the median 2")
    assert "regions of UTM zones 10 and 33 are apart" in note.text
    assert overlap.details == ("y/@5e5@4e6@a@.jpg",), "1.jpg proves nothing"
    nowhere = folder_of(queries, utm_of(*[[1.0] * 4] * 2, [10] * 4), tmp_path)
    assert check_pair(sides[0], nowhere, 5)[0].level == ERROR
    unknown = folder_of(queries, utm_of(*[[np.nan] * 4] * 2, [10] * 4), tmp_path)
    assert check_pair(sides[0], unknown, 5)[0].text == "no query has a position"
    no_zone = folder_of(queries, utm_of(*[[1.0] * 4] * 2, [61] * 4), tmp_path)
    assert "are 1 to 60, not 61" in check_pair(sides[0], no_zone, 5)[0].text


def test_classes_leave_out_what_has_no_heading():
    params = PartitionParams(min_images_per_class=2)
    east_m = np.array([5, 6, 15, np.nan, 5, 55.0])
    heading_deg = np.array([0, 0, 0, 0, np.nan, 0.0])
    classes, dropped, groups = check_classes(east_m, np.full(6, 5.0), heading_deg, params)
    assert [classes.level, dropped.level, groups.level] == [OK, FACT, WARNING]
    assert classes.details[1].split() == ["0", "(0,", "0,", "0)", "1", "2", "2.0"]
    assert "2 of 4 images (50.0%)" in dropped.text
    assert groups.remedy == "train with --groups_num 1"
    [finding] = check_classes(east_m, np.full(6, 5.0), heading_deg, PartitionParams())
    assert finding.level == ERROR and "--min_images_per_class 2 or less" in finding.remedy
    far = np.array([0, 1e18])
    assert check_classes(far, far, np.zeros(2), params)[0].level == ERROR
    assert check_classes(east_m[:1], east_m[:1], np.array([np.nan]), params)[0].level == FACT
    around = PartitionParams(alpha=50, min_images_per_class=0)
    assert "around north" in check_classes(east_m, east_m, heading_deg, around)[-1].text


def test_real_names_of_tokyo(shared_data, tmp_path):
    names = (shared_data / "tokyo247/database_images_paths.txt").read_text().split()
    _, _, findings = check_names(listed(names, tmp_path), True)
    places = {tuple(line.rsplit("/", 1)[1].split("@")[1:3]) for line in names}
    [area] = of(findings, "area")
    assert area.text.startswith(f"zone 54 north: 75,984 images at {len(places):,} places")
    assert of(findings, "lat, lon")[0].text.startswith("agree with UTM in 75,984 names, to 0.")
    assert {finding.level for finding in findings} <= {OK, FACT}


def test_photos_of_a_walk_have_no_positions(shared_data):
    paths = list_images(shared_data / "lund")
    findings = check_names(paths, True)[2]
    [finding] = findings
    assert finding.text.startswith("29 of 29 names") and len(paths) == 29
    assert finding.level == ERROR and "tools.convert" in finding.remedy
