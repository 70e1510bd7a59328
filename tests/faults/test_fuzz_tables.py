"""Readers of tables and of positives, against whatever somebody may have written."""

import io
import json
import os
import pickle

import numpy as np
import pytest
from conftest import write_image
from fuzzing import BYTES, damage, fuzzed
from gsv_files import write_gsv_cities
from hypothesis import example, given
from hypothesis import strategies as st

from datasets.ground_truth import read_positives
from datasets.gsv_cities import read_gsv_cities
from datasets.image_lists import list_images
from tools.convert.table import read_table

# ---- tables ----

CELLS = st.one_of(
    st.sampled_from(
        [*("path", "lat", "lon", "utm_east", "utm_north", "zone", "heading", "timestamp", "")]
        + [*("1.jpg", "../1.jpg", "nowhere.jpg", "1.txt", "55.7", "13,1", "-0", "nan", "1e400")]
        + [
            *(
                "32U",
                "99",
                "2020:13:01",
                "0001-01-01",
                "'",
                '"',
                '""',
                '"a',
                "\0",
                "\u0661",
                "\ufeff",
            )
        ]
    ),
    st.text(max_size=8),
    st.floats().map(repr),
)
TABLES = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda header, rows, mark, line_end, encoding: line_end.join(
            mark.join(row) for row in [header, *rows]
        ).encode(encoding, "surrogatepass"),
        st.permutations(["path", "lat", "lon", "heading", "timestamp"])
        | st.permutations(["path", "utm_east", "utm_north", "zone", "altitude"])
        | st.lists(CELLS, max_size=6),
        st.lists(st.lists(CELLS, max_size=6), max_size=4),
        st.sampled_from([",", ";", "\t"]),
        st.sampled_from(["\n", "\r\n", "\r"]),
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]),
    ),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_image(tmp_path_factory.mktemp("photos") / "1.jpg").parent


@fuzzed
@given(TABLES)
@example(b"\xff\xfep\0a")
@example(b"path,lat,lon\n1.jpg," + b"1" * 200_000 + b",2\n")
@example(b"path,lat,lon,timestamp\n1.jpg,55,13,2020-01-01T00:00:00\n")
def test_tables_of_photos_are_read_or_refused(photos, content):
    (photos / "photos.csv").write_bytes(content)
    try:
        table = read_table(photos / "photos.csv", {})
    except ValueError as error:
        assert "photos.csv" in str(error)
        return
    assert table.files and all(os.path.isfile(file) for file in table.files)
    assert np.isfinite(table.positions.east_m).all() and np.isfinite(table.positions.north_m).all()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["1.jpg", "1", "55.7", "Point", "CRS84", "image"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["data", "features", "properties", "geometry", "coordinates", "type", "id", "error"]
            + ["filename", "MAPLatitude", "MAPLongitude", "MAPCompassHeading", "TrueHeading"]
            + ["crs", "name", "path", "captured_at", "filetype", "photo"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


@fuzzed
@given(st.sampled_from(["mapillary", "geojson"]), JSON.map(json.dumps), st.lists(BYTES, max_size=2))
@example("geojson", '{"properties": {"path": "1.jpg"}, "geometry": {"coordinates": [1, 2]}}', [])
@example("geojson", '{"geometry": {"coordinates": "12"}, "properties": {"path": "1"}}', [])
@example("mapillary", '{"data": [{"id": "1", "geometry": {"coordinates": [[1], {}]}}]}', [])
def test_json_of_photos_is_read_or_refused(photos, kind, text, damages):
    content = text.encode()
    for how in damages:
        content = damage(content, *how) if content else content
    (photos / "photos.json").write_bytes(content)
    try:
        table = read_table(photos / "photos.json", {}, kind=kind)
    except ValueError as error:
        assert "photos.json" in str(error)
        return
    assert table.files and np.isfinite(table.positions.east_m).all()


# ---- positives ----


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    for role, num in (("database", 4), ("queries", 3)):
        for number in range(num):
            write_image(folder / role / f"{role[0]}{number}.jpg")
    return list_images(folder / "database"), list_images(folder / "queries")


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header_of(shape, descr="<i8"):
    buffer = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def check_positives(file, images):
    database, queries = images
    try:
        truth = read_positives(file, database, queries)
    except ValueError as error:
        assert str(file) in str(error)
        return
    assert len(truth.positives_per_query) == len(queries)
    for positives in truth.positives_per_query:
        assert positives.dtype == np.int64 and np.array_equal(np.unique(positives), positives)
        assert not len(positives) or 0 <= positives[0] <= positives[-1] < len(database)


class Call:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("evidence",)


ARRAYS_OF_POSITIVES = (
    npy(np.array([[1, 3], [-1, -1], [0, -1]])),
    npy(np.array([[1, 3], [2, 2], [0, 0]], ">u2")),
    npy(np.array([[1.0, 3], [-1, -1], [0, -1]], np.float32)),
    npy(np.array([[2, [0]], [0, [1, 3]], [1, []]], object)),
)


@pytest.mark.filterwarnings("error")
@fuzzed
@given(st.sampled_from(ARRAYS_OF_POSITIVES), st.lists(BYTES, max_size=3))
@example(header_of((10**12, 1)), [])
@example(header_of((3, 10**18)), [])
@example(header_of((2**40, 2**40)), [])
@example(header_of((3,), "|O") + pickle.dumps(Call()), [])
@example(pickle.dumps(Call()), [])
@example(b"PK\x03\x04", [])
@example(npy(np.full((3, 1), 1j)), [])
@example(npy(np.full((3, 1), "1")), [])
def test_arrays_of_positives_are_read_or_refused(images, content, damages):
    for how in damages:
        content = damage(content, *how) if content else content
    file = images[0].folder.parent / "positives.npy"
    file.write_bytes(content)
    check_positives(file, images)
    assert not os.path.exists("evidence")


@fuzzed
@given(
    st.binary(max_size=100)
    | st.lists(
        st.lists(
            st.sampled_from(["query", "database", "q0.jpg", "d1.jpg", "0", "3", "-1", '"', ""])
        ),
        max_size=6,
    ).map(lambda rows: "\n".join(["query,database", *map(",".join, rows)]).encode())
)
@example(b"query,database\n0," + b"1" * 200_000)
@example(b"query,database\n0\0,1\n")
def test_tables_of_positives_are_read_or_refused(images, content):
    file = images[0].folder.parent / "positives.csv"
    file.write_bytes(content)
    check_positives(file, images)


# ---- GSV-Cities ----


@pytest.fixture(scope="module")
def cities(tmp_path_factory):
    return write_gsv_cities(tmp_path_factory.mktemp("gsv"), {"London": 3}, size=(4, 4))


@fuzzed
@given(BYTES)
@example(("nothing but", b"place_id,year,month,northdeg,city_id,lat,lon,panoid\n" + b"1," * 7))
@example(("replace", 0.3, b"\0"))
@example(("replace", 0.3, b'"'))
def test_a_damaged_table_of_a_city_is_read_or_refused(cities, how):
    file = cities / "Dataframes" / "London.csv"
    content = file.read_bytes()
    file.write_bytes(damage(content, *how))
    try:
        places = read_gsv_cities(cities)
        assert all(len(places.images(place)) >= 4 for place in range(places.num_places))
        for image in range(places.num_images):
            assert os.path.dirname(places.path(image)) == str(cities / "Images" / "London")
    except (ValueError, FileNotFoundError) as error:
        assert str(cities) in str(error)
    finally:
        file.write_bytes(content)
