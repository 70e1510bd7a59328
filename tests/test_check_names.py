"""What the check finds out from names: positions, zones, headings, positives, classes."""

import numpy as np
import pytest
import utm
from conftest import name

from datasets.image_lists import list_images, split_lines
from datasets.partition import PartitionParams
from tools.check.classes import judge_classes, measure_classes
from tools.check.findings import ERROR, FACT, OK, WARNING
from tools.check.name_findings import judge_names
from tools.check.names import measure_names
from tools.check.pairs import count_positives, judge_pair, measure_pair
from tools.check.positions import Positions


def listed(names, folder):
    blob = np.frombuffer("\n".join(names).encode(), np.uint8)
    return split_lines(folder, blob)


@pytest.fixture
def measured(tmp_path):
    """Return a function from names to what is found about them, for training and evaluation."""

    def measure(names):
        facts = measure_names(listed(names, tmp_path))
        return facts, judge_names(facts, len(names), True), judge_names(facts, len(names), False)

    return measure


def levels(findings, subject):
    return [finding.level for finding in findings if finding.subject == subject]


def test_sound_names(measured):
    east_m, north_m, zone, letter = utm.from_latlon(37.77, -122.42)
    names = [
        name(
            *(east_m + 10 * k, north_m, 30 * k),
            **{"zone_number": zone, "zone_letter": letter, "pano_id": f"{k}"},
            **{"latitude_deg": 37.77, "longitude_deg": -122.42, "timestamp": f"20{k:02d}06"},
        )
        for k in range(2)
    ]
    facts, training, evaluation = measured([names[0], f"sub/{names[1]}"])
    assert facts.zones[0].name == "zone 10 north" and facts.zones[0].num_places == 2
    assert facts.zones[0].extent_m == (10.0, 0.0)
    assert facts.years == {2000: 1, 2001: 1} and facts.heading_deg.tolist() == [0, 30]
    assert facts.num_with_degrees == 2 and 9.9 < facts.contradiction_m < 10.1
    assert facts.contradicting.examples == (f"sub/{names[1]}",)
    assert levels(training, "positions") == levels(training, "headings") == [OK]
    assert levels(evaluation, "lat, lon") == [WARNING]
    assert levels(measured(names[:1])[1], "lat, lon") == [OK]


def test_names_without_position_or_heading(measured):
    names = ["photo.jpg", "@1@@.jpg", "@east@2@.jpg", "@5e5@4e6@10@S@@@p@@@@@@@@.jpg"]
    names += ["@5e5@4e6@10@S@@@p@@N@@@@@@.jpg", "@5e5@4e6@10@S@@@p@@-1@@@@@@.jpg"]
    names += ["@5e5@4e6@10@S@@@p@@360@@@@@@.jpg"]
    facts, training, evaluation = measured(names)
    assert facts.no_position.num == 3 and facts.no_position.examples == tuple(names[:3])
    assert facts.no_heading.examples == (names[3],) and facts.bad_heading.examples == (names[4],)
    assert facts.odd_heading.examples == (names[5], names[6])
    assert levels(training, "headings") == [ERROR, ERROR, WARNING]
    assert levels(evaluation, "headings") == [FACT, FACT, WARNING]
    assert levels(training, "positions") == levels(evaluation, "positions") == [ERROR]
    assert any("field 9 of 2 names" in finding.remedy for finding in training)
    facts, training, _ = measured(names[:3])
    assert facts.zones == () and levels(training, "headings") == []


def test_headings_that_are_all_zero(measured):
    _, training, _ = measured(["@5e5@4e6@@@@@a@@0@@@@@@.jpg", "@5e5@4e6@@@@@b@@000@@@@@@.jpg"])
    (finding,) = [finding for finding in training if finding.subject == "headings"]
    assert finding.level == WARNING and "all 2 are 0" in finding.text


def test_zones_and_hemispheres(measured):
    north, south, none = "@5e5@4e6@54@S@", "@5e5@6e6@54@j@", "@5e5@6e6@@@"
    facts, _, findings = measured(
        [north + "a@.jpg", north + "b@.jpg", south + "@.jpg", none + ".jpg"]
    )
    assert [zone.name for zone in facts.zones] == [
        *("zone 54 north", "zone 54 south", "without a zone")
    ]
    assert [zone.num_images for zone in facts.zones] == [2, 1, 1]
    assert levels(findings, "UTM zones") == [WARNING], "evaluation projects them"
    facts, _, findings = measured([north + ".jpg", none + ".jpg"])
    assert levels(findings, "UTM zones") == [], "a zone and none is not several"
    _, findings, _ = measured(["@5e5@4e6@10@S@.jpg", "@5e5@4e6@11@S@.jpg", "photo.jpg"])
    assert levels(findings, "UTM zones") == [ERROR], "training does not"


def test_positions_that_are_not_utm(measured):
    facts, _, findings = measured(["@37.77@-122.42@.jpg", "@37.78@-122.43@.jpg"])
    assert facts.are_degrees and levels(findings, "positions") == [OK, ERROR]
    facts, _, findings = measured(
        [f"@0@{k * 25 / 10.5:07.1f}@@@@@{k}@@@@@@@@.jpg" for k in range(40)]
    )
    assert not facts.are_degrees, "frames on a line"
    assert facts.impossible.num == 40 and levels(findings, "positions") == [OK, WARNING]


def test_latitude_and_longitude_of_all_zones_are_compared(measured):
    rng = np.random.default_rng(0)
    names = []
    for latitude, longitude in zip(
        rng.uniform(-79, 83.9, 300), rng.uniform(-180, 180, 300), strict=True
    ):
        east_m, north_m, zone, letter = utm.from_latlon(latitude, longitude)
        zone, letter = (None, "") if len(names) % 3 == 0 else (zone, letter)
        position = {"latitude_deg": latitude, "longitude_deg": longitude}
        names.append(name(east_m, north_m, zone_number=zone, zone_letter=letter, **position))
    facts = measured(names)[0]
    assert facts.num_with_degrees == 300 and facts.contradicting.num == 0
    assert 0.1 < facts.contradiction_m < 1
    nowhere = ["@5e5@4e6@10@S@95@10@.jpg", "@5e5@4e6@10@S@10@999@.jpg", "@5e5@4e6@10@S@10@@.jpg"]
    facts, _, findings = measured(names + nowhere)
    assert facts.contradicting.num == 2 and facts.num_with_degrees == 302
    assert levels(findings, "lat, lon") == [WARNING]


def test_same_names_and_timestamps(measured):
    names = ["a/@5e5@4e6@1@.jpg", "b/@5e5@4e6@1@.jpg", "b/@5e5@4e6@1@.jpg", "a/1.jpg", "b/1.jpg"]
    facts, _, findings = measured(names)
    assert facts.same_name.examples == ("b/@5e5@4e6@1@.jpg",), "listed twice is another flaw"
    assert levels(findings, "duplicates") == [WARNING]
    times = ["2014", "201406", "20080101_101010", "", "14", "june"]
    facts, _, findings = measured([f"@5e5@4e6@@@@@{t}@@@@@@{t}@@.jpg" for t in times])
    assert facts.years == {2014: 2, 2008: 1}
    assert facts.bad_timestamps.num == 2 and levels(findings, "timestamps") == [WARNING]


def positions_of(east_m, north_m, zone):
    return Positions(np.asarray(east_m, float), np.asarray(north_m, float), np.asarray(zone))


def test_positives_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    sides = []
    for num in (400, 60):
        utms = np.round(rng.uniform(0, 100, (2, num)), -1)  # many at the same place
        utms[0, 3] = np.nan
        sides.append(positions_of(*utms, rng.choice([10, 33, -33], num)))
    database, queries = sides
    for zones in (queries.zone, queries.zone * 0):  # 0, unknown, is of the most frequent zone
        queries = positions_of(queries.east_m, queries.north_m, zones)
        expected = []
        for east_m, north_m, zone in zip(queries.east_m, queries.north_m, zones, strict=True):
            near = np.hypot(database.east_m - east_m, database.north_m - north_m) <= 20
            num = int((near & (database.zone == (zone or 33))).sum())
            expected.append(-1 if np.isnan(east_m) else num)
        assert count_positives(database, queries, 20).tolist() == expected
        assert len(set(expected)) > 5


def test_pairs(tmp_path):
    database = listed(["@5e5@4e6@a@.jpg", "@5e5@4e6@b@.jpg", "x/1.jpg"], tmp_path)
    queries = listed(
        ["@500025@4e6@q@.jpg", "y/@5e5@4e6@a@.jpg", "@6e5@4e6@r@.jpg", "1.jpg"], tmp_path
    )
    sides = [
        (database, positions_of([5e5, 5e5, np.nan], [4e6, 4e6, np.nan], [10, 10, 0])),
        (queries, positions_of([500025, 5e5, 6e5, np.nan], [4e6] * 3 + [np.nan], [10, 10, 33, 0])),
    ]
    facts = measure_pair(*sides, threshold_m=25)
    assert facts.num_queries == 3 and facts.median_positives == 2
    assert facts.without_positives.examples == ("@6e5@4e6@r@.jpg",)
    assert facts.also_in_database.examples == ("y/@5e5@4e6@a@.jpg",)
    assert facts.zones_apart == ("zone 33 north",)
    findings = judge_pair(facts)
    assert [finding.level for finding in findings] == [WARNING] * 3
    assert "no R@N exceeds 66.7" in findings[0].text
    findings = judge_pair(
        measure_pair(sides[0], (queries, positions_of(*[[1.0] * 4] * 2, [10] * 4)), 5)
    )
    assert findings[0].level == ERROR


def test_classes_leave_out_what_has_no_heading():
    params = PartitionParams(min_images_per_class=2)
    east_m = np.array([5, 6, 15, np.nan, 5, 55.0])
    heading_deg = np.array([0, 0, 0, 0, np.nan, 0.0])
    facts = measure_classes(east_m, np.full(6, 5.0), heading_deg, params)
    assert (facts.num_images, facts.num_left_out, facts.num_kept) == (4, 2, 2)
    assert facts.groups == (((0, 0, 0), 1, 2),) and facts.largest_class == 2
    findings = judge_classes(facts)
    assert [finding.level for finding in findings] == [OK, FACT, WARNING]
    assert "2 of 4 images (50.0%)" in findings[1].text
    assert findings[2].remedy == "train with --groups_num 1"
    facts = measure_classes(east_m, np.full(6, 5.0), heading_deg, PartitionParams())
    (finding,) = judge_classes(facts)
    assert finding.level == ERROR and "--min_images_per_class 2 or less" in finding.remedy
    facts = measure_classes(np.array([0, 1e18]), np.array([0, 1e18]), np.zeros(2), params)
    assert facts.problem and judge_classes(facts)[0].level == ERROR
    nothing = measure_classes(east_m[:1], east_m[:1], np.array([np.nan]), params)
    assert judge_classes(nothing)[0].level == FACT
    around = judge_classes(
        measure_classes(
            east_m, east_m, heading_deg, PartitionParams(alpha=50, min_images_per_class=0)
        )
    )
    assert "around north" in around[-1].text


def test_real_names_of_tokyo(shared_data, tmp_path):
    names = (shared_data / "tokyo247/database_images_paths.txt").read_text().split()
    facts = measure_names(listed(names, tmp_path))
    (zone,) = facts.zones
    places = {tuple(line.rsplit("/", 1)[1].split("@")[1:3]) for line in names}
    assert (zone.name, zone.num_images) == ("zone 54 north", 75_984)
    assert zone.num_places == len(places)
    assert facts.num_with_degrees == 75_984 and facts.contradiction_m < 1
    assert facts.no_heading.num == facts.same_name.num == facts.impossible.num == 0
    assert judge_names(facts, len(names), True)[0].level == OK


def test_photos_of_a_walk_have_no_positions(shared_data):
    paths = list_images(shared_data / "lund")
    facts = measure_names(paths)
    assert facts.no_position.num == len(paths) == 29 and facts.zones == ()
    (finding,) = judge_names(facts, 29, True)
    assert finding.level == ERROR and "tools.convert" in finding.remedy
