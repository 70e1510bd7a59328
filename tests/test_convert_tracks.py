"""Photos placed along GPX tracks by their times."""

import datetime
import os

import numpy as np
import pytest
from photo_tables import write_photo

from datasets.image_lists import list_images
from datasets.image_names import parse_image_name
from tools.convert.__main__ import main
from tools.convert.tracks import read_tracks

NOON = datetime.datetime(2023, 5, 1, 12, 0, 0, tzinfo=datetime.timezone.utc)
GARMIN = """<?xml version="1.0" encoding="UTF-8"?>
<gpx creator="Garmin Connect" version="1.1" xmlns="http://www.topografix.com/GPX/1/1"
  xmlns:ns3="http://www.garmin.com/xmlschemas/TrackPointExtension/v1">
  <metadata><time>2023-05-01T12:00:00.000Z</time></metadata>
  <wpt lat="1" lon="1"><time>2023-05-01T12:00:05Z</time></wpt>
  <trk><name>A walk</name>{segments}</trk>
</gpx>
"""
POINT = """<trkpt lat="{lat}" lon="{lon}"><ele>{ele}</ele><time>{time}</time>
  <extensions><ns3:TrackPointExtension><ns3:hr>90</ns3:hr></ns3:TrackPointExtension></extensions>
</trkpt>"""
# Seconds after noon, latitude, longitude: to the north, a pause of 300 s, then to the east
WALK = [(0, 55.7, 13.2), (10, 55.701, 13.2), (310, 55.701, 13.2), (320, 55.701, 13.203)]


def write_track(path, *segments, template=GARMIN):
    texts = []
    for segment in segments:
        points = [
            POINT.format(
                lat=lat,
                lon=lon,
                ele=100 + seconds / 10,
                time=(NOON + datetime.timedelta(seconds=seconds)).strftime(
                    "%Y-%m-%dT%H:%M:%S.000Z"
                ),
            )
            for seconds, lat, lon in segment
        ]
        texts.append(f"<trkseg>{''.join(points)}</trkseg>")
    path.parent.mkdir(exist_ok=True)
    path.write_text(template.format(segments="".join(texts)))
    return str(path)


def write_photos(tmp_path, *seconds, zone_h=0, offset="", subsec=""):
    """Write photos with the EXIF of a camera whose clock shows a zone; names tell the seconds."""
    for second in seconds:
        time = NOON + datetime.timedelta(seconds=second, hours=zone_h)
        details = {0x9003: time.strftime("%Y:%m:%d %H:%M:%S")}
        details |= {0x9011: offset} if offset else {}
        details |= {0x9291: subsec} if subsec else {}
        write_photo(tmp_path / "photos" / f"{second:04d}.jpg", details=details)


def convert(tmp_path, *flags):
    track = str(tmp_path / "photos" / "walk.gpx")
    out = f"--out={tmp_path / 'out'}"
    main(["gpx", track, out, *flags])
    fields = [parse_image_name(path) for path in list_images(tmp_path / "out")]
    return sorted(fields, key=lambda one: one.pano_id)


@pytest.fixture
def walk(tmp_path):
    return write_track(tmp_path / "photos" / "walk.gpx", WALK[:2], WALK[2:])


def test_positions_lie_between_the_fixes(walk, tmp_path, caplog):
    write_photos(tmp_path, 0, 4, 320)
    write_photos(tmp_path, 315, offset="+00:00", subsec="50")
    first, second, third, last = convert(tmp_path)
    assert (first.latitude_deg, first.longitude_deg, first.height_m) == (55.7, 13.2, 100)
    assert (second.latitude_deg, second.longitude_deg, second.height_m) == (55.7004, 13.2, 100.4)
    assert (third.latitude_deg, third.longitude_deg) == (55.701, 13.20165)  # at 315.5 s
    assert (last.latitude_deg, last.longitude_deg, last.pano_id) == (55.701, 13.203, "0320")
    assert (second.timestamp, second.heading_deg) == ("20230501_120004", None)
    assert "EXIF times of 3 images do not say their time zone" in caplog.text
    assert ".gpx" not in caplog.text, "the track is not a file that was left out"


def test_the_heading_is_the_course_only_if_asked(walk, tmp_path):
    write_photos(tmp_path, 0, 5, 10, 310, 314, 320)
    write_photo(tmp_path / "photos/0007.jpg", {17: 45.0}, {0x9003: "2023:05:01 12:00:07"})
    headings = {one.pano_id: one.heading_deg for one in convert(tmp_path)}
    assert headings == {**dict.fromkeys(headings), "0007": 45}
    out = tmp_path / "again"
    main(["gpx", walk, f"--out={out}", "--heading_from_course", f"--images={tmp_path}/photos"])
    for one in map(parse_image_name, list_images(out)):
        expected = 0 if int(one.pano_id) <= 10 else 90
        assert (one.heading_deg + 1) % 360 == pytest.approx(expected + 1, abs=0.01), one.pano_id


def test_a_course_does_not_look_across_gaps(tmp_path):
    write_track(tmp_path / "photos/walk.gpx", WALK[:2], [(80, 55.701, 13.3), (90, 55.7, 13.3)])
    write_photos(tmp_path, 10, 80)
    headings = [one.heading_deg for one in convert(tmp_path, "--heading_from_course")]
    assert headings == [0, 180]


def test_who_stands_still_has_no_course(tmp_path):
    write_track(tmp_path / "photos/walk.gpx", [(0, 55.7, 13.2), (30, 55.70001, 13.2)])
    write_photos(tmp_path, 15)
    (fields,) = convert(tmp_path, "--heading_from_course")
    assert fields.heading_deg is None


def test_a_track_across_180_degrees_is_not_interpolated_around_the_globe(tmp_path):
    write_track(tmp_path / "photos/walk.gpx", [(0, -18, 179.99), (10, -18, -179.97)])
    write_photos(tmp_path, 5)
    (fields,) = convert(tmp_path)
    assert fields.longitude_deg == -179.99


def test_photos_off_the_track_are_counted_by_reason(walk, tmp_path, refused, caplog):
    write_photos(tmp_path, 4, 100, 400)
    write_photo(tmp_path / "photos/none.jpg")
    (fields,) = convert(tmp_path, "--skip_without_gps")
    assert fields.pano_id == "0004"
    reasons = (
        "1 without a time in their EXIF (--photo_times file takes that of the file), 1 before "
    )
    reasons += "the track or after it, 1 in gaps longer than 60 s (--max_gap_s). The track is from "
    reasons += "20230501_120000 to 20230501_120520, the images from 20230501_120004 to "
    assert f"3 of 4 images are not on the track: {reasons}20230501_120640 (UTC)." in caplog.text
    error = refused(main, ["gpx", walk, "--out=again", "--max_gap_s=301"], 1)
    assert "2 of 4 images are not on the track" in error and "--skip_without_gps" in error
    assert "none.jpg" in error and "0100.jpg" not in error
    assert not os.path.exists("again")


def test_the_clock_of_the_camera_is_guessed_and_corrected(walk, tmp_path, refused):
    write_photos(tmp_path, 4, 315, zone_h=2)
    error = refused(main, ["gpx", walk, "--out=out"], 1)
    assert "With --time_offset_s -7200, 2 would be on it." in error
    first, second = convert(tmp_path, "--time_offset_s=-7200")
    assert (first.latitude_deg, first.timestamp) == (55.7004, "20230501_120004")
    write_photos(tmp_path, 4, 315, zone_h=2, offset="+02:00")
    main(["gpx", walk, f"--out={tmp_path}/zone"])
    assert len(list_images(tmp_path / "zone")) == 2


def test_the_time_of_the_file_is_taken_if_asked(walk, tmp_path):
    write_photos(tmp_path, 400)
    seconds = NOON.timestamp() + 4
    os.utime(tmp_path / "photos/0400.jpg", (seconds, seconds))
    (fields,) = convert(tmp_path, "--photo_times=file")
    assert (fields.latitude_deg, fields.timestamp) == (55.7004, "20230501_120004")


def test_tracks_of_several_files_and_versions_are_joined(walk, tmp_path):
    old = '<gpx xmlns="http://www.topografix.com/GPX/1/0" xmlns:ns3="x"><trk>{segments}</trk></gpx>'
    later = [(600, 55.8, 13.2), (590, 55.7, 13.2), (590, 55.7, 13.2)]
    second = write_track(tmp_path / "photos/b.gpx", later, template=old)
    track = read_tracks([second, walk])
    assert len(track.times_s) == 6 and (np.diff(track.times_s) > 0).all()
    assert track.times_s[-1] == NOON.timestamp() + 600 and track.latitude_deg[-1] == 55.8
    assert track.gaps_s(NOON.timestamp() + np.array([-1, 0, 4, 100, 595, 600, 601, np.nan])).tolist(
    ) == [np.inf, 0, 10, 300, 10, 0, np.inf, np.inf]  # fmt: skip


BOMB = """<!DOCTYPE gpx [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<gpx><trk><trkseg><trkpt lat="1" lon="1"><time>&b;</time></trkpt></trkseg></trk></gpx>"""
OUTSIDE = '<!DOCTYPE gpx [<!ENTITY a SYSTEM "file:///etc/hostname">]><gpx><trk>&a;</trk></gpx>'
ONE = '<gpx><trk><trkseg><trkpt lat="{}" lon="{}">{}</trkpt></trkseg></trk></gpx>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lat,lon\n1,2\n", "walk.gpx is no GPX: syntax error"),
        ("<gpx>", "is no GPX: no element found"),
        ("<?xml version='1.0' encoding='klingon'?><gpx/>", "is no GPX: unknown encoding"),
        (BOMB, "is no GPX: it has a document type"),
        (OUTSIDE, "is no GPX: it has a document type"),
        ("<gpx/>", "no track with times"),
        ("<?xml version='1.0'?><kml/>", "is no GPX: it holds kml"),
        (ONE.format(1, 2, ""), "no track with times"),
        (ONE.format(1, 2, "<time>soon</time>"), "point 1 of a track: 'soon' is not a time"),
        (ONE.format("x", 2, "<time>2020-01-01T00:00:00Z</time>"), "point 1 of a track: "),
        (ONE.format("nan", 2, "<time>2020-01-01T00:00:00Z</time>"), "where UTM is not defined"),
        (ONE.format(89, 2, "<time>2020-01-01T00:00:00Z</time>"), "where UTM is not defined"),
    ],
)
def test_other_files_are_refused(tmp_path, refused, text, message):
    write_photos(tmp_path, 4)
    (tmp_path / "photos/walk.gpx").write_text(text)
    assert message in refused(main, ["gpx", "photos/walk.gpx", "--out=out"], 1)
    assert os.listdir(tmp_path) == ["photos"]


def test_a_track_with_0_0_empty_lines_and_decimal_commas(tmp_path, caplog):
    points = [("0", "0", 10), ("48,0", "2,0", 0), ("48.002", "2.0", 20)]
    fixes = "".join(
        f'<trkpt lat="{lat}" lon="{lon}"><time>2020-01-01T00:00:{second:02d}Z</time></trkpt>'
        for lat, lon, second in points
    )
    text = f"\n\n<?xml version='1.0'?><gpx><trk><trkseg>{fixes}</trkseg></trk></gpx>"
    (tmp_path / "a.gpx").write_text(text)
    track = read_tracks([tmp_path / "a.gpx"])
    latitude_deg, _, _ = track.locate(track.times_s[:1] + 10)
    assert latitude_deg[0] == pytest.approx(48.001) and "1 points at 0, 0" in caplog.text


def test_tracks_of_the_same_time_and_wrong_flags_are_refused(walk, tmp_path, refused):
    write_photos(tmp_path, 4)
    other = write_track(tmp_path / "photos/b.gpx", [(5, 1, 2), (400, 1, 2)])
    error = refused(main, ["gpx", walk, other, "--out=out"], 1)
    assert "Two tracks cover the same time, from 20230501_120005 (UTC) on: give one" in error
    assert "There is no file" in refused(main, ["gpx", "gone.gpx", "--out=out"], 1)
    for flag in ("--max_gap_s=0", "--max_gap_s=nan", "--time_offset_s=nan", "--time_offset_s=1e12"):
        assert flag.partition("=")[0] in refused(main, ["gpx", walk, "--out=out", flag], 2)
