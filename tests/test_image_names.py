import errno
import subprocess
import sys

import numba
import numpy as np
import pytest
from conftest import REPOSITORY

from datasets.image_lists import list_images
from datasets.image_names import (
    FIELDS,
    ImageName,
    compiled,
    format_image_name,
    hash_fields,
    parse_image_name,
    read_fields,
    read_numbers,
    read_prefixes,
)

SF_XL = (
    "@0544388.51@4172758.25@10@S@037.70098@-122.49646@kPnABhWJ1kA61eMNPLs1vQ@@210@@@@201606@@.jpg"
)


def test_well_formed_name():
    assert parse_image_name(f"37.70/{SF_XL}") == ImageName(
        utm_east_m=544388.51,
        utm_north_m=4172758.25,
        zone_number=10,
        zone_letter="S",
        latitude_deg=37.70098,
        longitude_deg=-122.49646,
        pano_id="kPnABhWJ1kA61eMNPLs1vQ",
        heading_deg=210.0,
        timestamp="201606",
    )


def test_old_sf_xl_test_name_has_a_date_but_no_heading():
    fields = parse_image_name(
        "@0549678.37@4180874.60@10@S@037.77386@-122.43590@bZ1VXzxFCSKi9wcz8H5pZA0@201311.jpg"
    )
    assert (fields.utm_east_m, fields.utm_north_m) == (549678.37, 4180874.60)
    assert (fields.heading_deg, fields.timestamp) == (None, "201311")
    assert (fields.pano_id, fields.extension) == ("bZ1VXzxFCSKi9wcz8H5pZA0", ".jpg")


@pytest.mark.parametrize(
    ("file", "east_m", "heading_deg", "note"),
    [
        (
            "@0584744.97@4476709.92@17@T@040.43672@-080.00082@000546@00@@@@@@pitch1_yaw1@.jpg",
            584744.97,
            None,
            "pitch1_yaw1",
        ),
        (
            "@0381523.71@3946790.15@54@S@035.65786@0139.69112@00685.jpg@@@@@@@@.jpg",
            381523.71,
            None,
            "",
        ),
        ("@0@00088.1@@@@@37@@@@@@@@.jpg", 0.0, None, ""),
        (SF_XL.replace("@210@", "@-12.5@"), 544388.51, -12.5, ""),
        ("@123.4@567.8@.png", 123.4, None, ""),
    ],
)
def test_names_of_other_sets(file, east_m, heading_deg, note):
    fields = parse_image_name(file)
    assert (fields.utm_east_m, fields.heading_deg, fields.note) == (east_m, heading_deg, note)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("photo.jpg", "No UTM position"),
        ("@@4172758.25@10@S@.jpg", "No UTM position"),
        ("@east@4172758.25@10@S@.jpg", "UTM east .* is 'east', not a number"),
        (SF_XL.replace("@210@", "@north@"), "heading .* is 'north', not a number"),
    ],
)
def test_bad_names_are_refused(file, message):
    with pytest.raises(ValueError, match=message):
        parse_image_name(file)


def test_format_writes_what_parse_reads():
    assert format_image_name(parse_image_name(SF_XL)) == SF_XL
    assert len(SF_XL.split("@")) == 16


def list_names(tmp_path, names):
    """Return names as if they were listed; only the first file is there."""
    folder = tmp_path / "set"
    (folder / names[0]).parent.mkdir(parents=True)
    (folder / names[0]).touch()
    (tmp_path / "set_images_paths.txt").write_text("\n".join(names))
    return list_images(folder)


def random_number(rng):
    """Return a number as somebody may write it."""
    value = rng.choice([-1, 1], p=[0.2, 0.8]) * 10 ** rng.uniform(-4, 8)
    forms = ["{:.0f}", "{:010.2f}", "{:.14f}", "{:e}", "{:+.3f}", "{:012.5f}", "{!r}", "{:.1f}"]
    return rng.choice(forms).format(float(value))


def test_numbers_are_those_of_float_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    rows = [[random_number(rng) for _ in range(3)] for _ in range(3000)]
    folders = ["", "37.70/", "a@b@c/", "deep/er@/"]
    names = [
        f"{rng.choice(folders)}@{e}@{n}@10@S@{rng.integers(99)}@@pano@@{h}@@@@201606@@.jpg"
        for e, n, h in rows
    ]
    numbers = read_numbers(list_names(tmp_path, names), ("UTM east", "UTM north", "heading"))
    assert numbers.dtype == np.float64
    np.testing.assert_array_equal(numbers, np.array(rows, dtype=float).T)


def test_one_name_and_many_are_read_alike(tmp_path):
    rng = np.random.default_rng(1)
    names = []
    for num_fields in (3, 7, 8, 9, 10, 11, 14, 15, 17):
        fields = [str(number) for number in rng.integers(1, 360, num_fields)]
        fields[2] = "10"  # all in one UTM zone
        names.append("@".join(["", *fields]) + ".jpg")
    single = [parse_image_name(name) for name in names]
    numbers = read_numbers(list_names(tmp_path, names))
    assert numbers.T.tolist() == [[name.utm_east_m, name.utm_north_m] for name in single]
    with_heading = [name for name in single if name.heading_deg is not None]
    assert len(with_heading) == 5, "those where field 9 is not the last part"
    with pytest.raises(ValueError, match="in 4 of 9 images"):
        read_numbers(list_names(tmp_path / "again", names), ("heading",))


def test_several_utm_zones_are_refused(tmp_path):
    names = [f"@1@2@{zone}@S@@@pano{i}@@30@@@@@@.jpg" for i, zone in enumerate([10, 10, 11, ""])]
    with pytest.raises(ValueError, match=r"UTM zones \(2 in zone 10, 1 in zone 11\)"):
        read_numbers(list_names(tmp_path, names))
    assert read_numbers(list_names(tmp_path / "one", names[:2] + names[3:])).shape == (2, 3)


def test_names_are_read_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.image_names._NAMES_PER_BLOCK", 7)
    names = [f"@{i}.25@{2 * i}@.jpg" for i in range(30)]
    east, north = read_numbers(list_names(tmp_path, names))
    assert east.tolist() == [i + 0.25 for i in range(30)]
    assert north.tolist() == [2.0 * i for i in range(30)]


def test_short_names_have_positions_but_no_heading(tmp_path):
    old = "@0549678.37@4180874.60@10@S@037.77386@-122.43590@bZ1VXzxFCSKi9wcz8H5pZA0@201311.jpg"
    ten = "@0549678.37@4180874.60@10@S@037.77386@-122.43590@pano@00@201311.jpg"
    paths = list_names(tmp_path, [old, ten])
    assert read_numbers(paths).T.tolist() == [[549678.37, 4180874.60]] * 2
    with pytest.raises(ValueError, match=r"heading \(field 9 .* in 2 of 2 images"):
        read_numbers(paths, ("heading",))


def test_missing_numbers_are_counted_and_shown(tmp_path):
    good = "@1@2@10@S@@@pano@@30@@@@@@.jpg"
    bad = [f"@1@2@10@S@@@pano{i}@@{h}@@@@@@.jpg" for i, h in enumerate(["", "N", "nan", "inf"])]
    no_utm = "photo.jpg"
    paths = list_names(tmp_path, [good, *bad, no_utm])
    with pytest.raises(ValueError) as error:
        read_numbers(paths, ("UTM east", "UTM north", "heading"))
    message = str(error.value)
    assert (
        "UTM east (field 1 of the '@' name) is missing or not a number in 1 of 6 images" in message
    )
    assert "heading (field 9 of the '@' name) is missing or not a number in 5 of 6" in message
    assert "eval.py --no_labels" in message and "localize.py needs those of its database" in message
    assert all(file in message for file in bad[:3])
    assert bad[3] not in message


def test_beginnings_of_fields_are_read_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.image_names._NAMES_PER_BLOCK", 2)
    texts = ["2014", "201406", "", "8", "a-b"]
    paths = list_names(tmp_path, [f"x@y/@1@2@{text}@S@{i}@.jpg" for i, text in enumerate(texts)])
    assert read_prefixes(paths, "UTM zone", 4).tolist() == [b"2014", b"2014", b"", b"8", b"a-b"]
    assert read_prefixes(paths, "latitude band", 1).tolist() == [b"S"] * 5
    assert read_prefixes(paths, "timestamp", 2).tolist() == [b""] * 5
    numbers = read_fields(paths, ("UTM zone", "UTM east"))
    assert (
        numbers[0, [0, 1, 3]].tolist() == [2014, 201406, 8] and np.isnan(numbers[0, [2, 4]]).all()
    )
    assert numbers[1].tolist() == [1] * 5


def test_hashes_tell_texts_apart_and_are_the_same_in_every_block(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    letters = [str(letter) for letter in "ab1@"]  # an '@' moves letters to the next field
    texts = ["".join(rng.choice(letters, rng.integers(1, 30))) for _ in range(3000)]
    names = [f"@1@2@10@S@{text}@@pano@@30@@@@@@.jpg" for text in [*texts, *texts[::7]]]
    paths = list_names(tmp_path, names)
    fields = ("latitude", "longitude", "pano id")
    hashes = hash_fields(paths, fields)
    written = [tuple(name.split("@")[FIELDS[field]] for field in fields) for name in names]
    assert len(set(hashes.tolist())) == len(set(written)) < len(names)
    assert len(set(zip(hashes.tolist(), written, strict=True))) == len(set(written))
    monkeypatch.setattr("datasets.image_names._NAMES_PER_BLOCK", 5)
    np.testing.assert_array_equal(hash_fields(paths, fields), hashes)
    assert len(set(hash_fields(paths, fields[::-1]).tolist())) == len(set(written))


def test_few_of_many_names_are_read_as_all_of_them(tmp_path):
    rng = np.random.default_rng(3)
    fields = ("UTM east", "UTM north", "heading")
    names = [f"{i}/x@{i % 7}/@{i}.5@{2 * i}@10@S@@@@@{i % 360}@@@@{i}@@.jpg" for i in range(500)]
    paths = list_names(tmp_path, names)
    chosen = rng.choice(500, 20, replace=False)  # far apart, in any order
    few = paths.subset(chosen)
    np.testing.assert_array_equal(read_fields(few, fields), read_fields(paths, fields)[:, chosen])
    np.testing.assert_array_equal(hash_fields(few, fields), hash_fields(paths, fields)[chosen])
    assert read_prefixes(few, "timestamp", 3).tolist() == [b"%d" % i for i in chosen]


def test_old_names_have_the_timestamp_in_their_last_part(tmp_path):
    names = [
        "37.7/@1@2@10@S@3@4@pano@201311.jpg",
        "@1@2@10@S@3@4@pano@00@201312_10.a.png",
        "@1@2@10@S@3@4@pano@00@@201401@@@@.jpg",
        "@1@2@10@S@3@4@pano@2015",
        "@1@2@.jpg",
        "@1@2@10@S@3@4@pano@@30@@@@201606@@.jpg",
    ]
    expected = [parse_image_name(name).timestamp.encode() for name in names]
    assert expected == [b"201311", b"201312_10.a", b"", b"", b"", b"201606"]
    assert read_prefixes(list_names(tmp_path, names), "timestamp", 11).tolist() == expected


def test_strange_texts_are_what_float_makes_of_them(tmp_path):
    limit = 2**53
    texts = [
        "-",
        ".",
        "-.",
        "--1",
        "1.2.3",
        "1.",
        ".5",
        "-.5",
        "+1",
        " 1",
        "1_0",
        "0x1",
        "1e5",
        "½",
    ]
    texts += [str(limit + step) for step in range(-2, 4)] + [f"{limit}.0", f"-{limit + 1}.5"]
    texts += ["0." + "0" * zeros + "1" for zeros in (20, 21, 22, 23, 300)] + [
        "9" * 400,
        "-0",
        "1,5",
    ]
    texts += ["179769313486231580793728971405301e276", "NaN", "-inf", "123.45678901234567890123"]

    def as_float(text):
        try:
            return float(text)
        except ValueError:
            return np.nan

    paths = list_names(tmp_path, [f"@{text}@2@10@S@.jpg" for text in texts])
    (numbers,) = read_fields(paths, ["UTM east"])
    np.testing.assert_array_equal(numbers, [as_float(text) for text in texts])
    assert np.signbit(numbers[texts.index("-0")])


def add_up(values):
    total = 0
    for value in values:
        total += value
    return total


def test_a_compiled_loop_is_the_plain_one():
    values = np.arange(1000)
    fast = compiled(add_up)
    assert fast(values) == fast.__wrapped__(values) == 499_500
    assert fast.__name__ == "add_up"


def test_without_a_place_for_machine_code_loops_are_compiled_each_time(monkeypatch):
    def njit(cache=False, **flags):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba_njit(**flags)

    numba_njit = numba.njit
    monkeypatch.setattr("numba.njit", njit)
    assert compiled(add_up)(np.arange(4)) == 6


def test_machine_code_that_cannot_be_saved_is_used_all_the_same(monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numba.core.caching.FunctionCache.save_overload", fail)
    assert compiled(add_up)(np.arange(5)) == 10


@pytest.mark.parametrize("module", ["datasets.class_index", "datasets.eval_set"])
def test_importing_does_not_wait_for_the_compiler(module):
    code = f"import sys, {module}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
