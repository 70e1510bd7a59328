"""Readers of names and of the cache, against whatever somebody may have written."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY, name, write_image
from fuzzing import BYTES, damage, fuzzed
from hypothesis import example, given
from hypothesis import strategies as st

from datasets.class_index import ARRAYS, ClassIndex, load_index
from datasets.image_lists import split_lines
from datasets.image_names import FIELDS, parse_image_name, read_fields
from datasets.partition import PartitionParams, make_partition

# ---- '@' names ----

NUMBERS = ("UTM east", "UTM north", "UTM zone", "latitude", "longitude", "heading")
TEXTS = st.one_of(
    st.floats().map(lambda number: repr(number).encode()),
    st.integers(-(10**25), 10**25).map(lambda number: str(number).encode()),
    st.sampled_from(
        [
            b"",
            b"0",
            b"-0",
            b"+1",
            b" 1 ",
            b"1_000",
            b"_1",
            b".5",
            b"5.",
            b".",
            b"-",
            b"1e5",
            b"1e400",
        ]
        + [b"0x10", b"nan", b"-inf", b"1.2.3", b"--1", b"\xc2\xa01", b"\xd9\xa1", b"\xff", b"1\0"]
        + [
            b"00000000000000000000001",
            b"9007199254740993",
            b"0." + b"0" * 30 + b"1",
            b"\xef\xbc\x91",
        ]
    ),
    st.binary(max_size=6),
).map(lambda text: text.translate(None, b"\n\r@/"))
NAMES = st.builds(
    lambda folder, first, fields, last: folder + b"@".join([first, *fields, last]),
    st.sampled_from([b"", b"a/", b"a@1@2@b/", b"x@y\t", b"p@1/x.jpg/sub@3/"]),
    TEXTS,
    st.lists(TEXTS, max_size=22),
    st.sampled_from([b".jpg", b"", b"20200101.jpg", b"a.b.png"]),
)


@fuzzed
@given(st.lists(NAMES.filter(len), min_size=1, max_size=8))
@example([b"@1@2@\xd9\xa1@N@5@6@@@7@@@@@@.jpg"])
def test_a_name_alone_says_what_it_says_among_others(lines):
    text = np.frombuffer(b"\n".join(lines), np.uint8)
    rows = read_fields(split_lines("/set", text), NUMBERS)
    for line, numbers in zip(lines, rows.T, strict=True):
        there = dict(zip(NUMBERS, numbers.tolist(), strict=True))
        *texts, _ = line.rpartition(b"/")[2].split(b"@")
        try:
            alone = parse_image_name(os.fsdecode(line))
        except ValueError:
            given = [texts[n] for n in (*map(FIELDS.get, NUMBERS), 10, 11, 12) if n < len(texts)]
            has_position = np.isfinite([there["UTM east"], there["UTM north"]]).all()
            assert not has_position or not all(is_number(text) for text in given if text)
            continue
        found = (alone.utm_east_m, alone.utm_north_m, alone.zone_number)
        found += (alone.latitude_deg, alone.longitude_deg, alone.heading_deg)
        there["UTM zone"] = np.trunc(there["UTM zone"])
        expected = [None if np.isnan(number) else number for number in there.values()]
        assert list(found) == expected


def is_number(text):
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


@fuzzed
@given(
    st.lists(
        st.tuples(
            st.floats(-1e6, 1e6), st.floats(-1e7, 1e7), st.floats(-1e6, 1e6) | st.just(-1e-20)
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 50),
    st.integers(1, 360),
)
def test_each_image_is_in_its_cell(images, side_m, alpha):
    params = PartitionParams(side_m, alpha, min_images_per_class=0)
    partition = make_partition(*np.array(images).T, params)
    for class_num, cell in enumerate(partition.class_cells.tolist()):
        first, past = partition.class_starts[class_num : class_num + 2]
        for image in partition.images[first:past]:
            east_m, north_m, heading_deg = images[image]
            wrapped_deg = heading_deg % 360 % 360  # -1e-20 % 360 is 360
            heading = int(wrapped_deg // alpha) * alpha
            assert cell == [east_m // side_m * side_m, north_m // side_m * side_m, heading]


# ---- the index in the cache ----

PARAMS = PartitionParams(N=2, L=1, min_images_per_class=2)
FILES = ("meta.json", "images_paths.txt", *(f"{name}.npy" for name in ARRAYS))


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    rng = np.random.default_rng(0)
    for number in range(80):
        east_m, north_m = rng.uniform(0, 40, 2)
        write_image(folder / "train" / name(east_m, north_m, number % 90, pano_id=f"{number}"))
    return load_index(folder / "train", PARAMS, folder / "cache")


def classes_of(index):
    """Return {group and class cell: paths}, with all that is read on the way."""
    index.describe()
    return {
        (*index.group_ids[group].tolist(), *index.class_cells[class_num].tolist()): [
            index.path(image) for image in index.images(class_num)
        ]
        for group in range(index.num_groups)
        for class_num in index.classes(group)
        if index.num_images(group)
    }


def look_at_copy(index, change):
    """Change a copy of an index: it is refused, or names the same files in the same classes.

    Harmless is what the description says beside the names and checksums of its files.
    """
    copy = index.index_folder.parent.parent / "copy" / index.index_folder.name
    shutil.rmtree(copy.parent, ignore_errors=True)
    shutil.copytree(index.index_folder, copy)
    change(copy)
    try:
        found = classes_of(ClassIndex(copy))
    except ValueError as error:
        assert "is damaged (" in str(error) and "): delete that folder" in str(error)
        assert str(copy) in str(error)
        return False
    assert found == classes_of(index)
    return True


@fuzzed
@given(st.sampled_from(FILES), BYTES)
@example("meta.json", ("nothing but", b"[" * 100_000))
@example("class_starts.npy", ("nothing but", b"PK\x03\x04"))
@example("group_ids.npy", ("replace", 0.0, b"\x93NUMPY\x02\x00\xff\xff\xff\xff"))
def test_a_damaged_index_is_refused_or_harmless(index, file, how):
    def change(copy):
        (copy / file).write_bytes(damage((copy / file).read_bytes(), *how))

    look_at_copy(index, change)


EXTREMES = [0, 1, -1, 2**31, -(2**31), 2**63 - 1, -(2**63), 10, 40]


@fuzzed
@given(
    st.sampled_from(ARRAYS),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(EXTREMES) | st.integers(-100, 100),
    st.booleans(),
)
def test_arrays_that_contradict_each_other_are_refused(index, array, where, value, is_added):
    is_changed = []

    def change(copy):
        content = np.load(copy / f"{array}.npy")
        place, before, limits = int(where * content.size), content.copy(), np.iinfo(content.dtype)
        number = value + is_added * int(content.flat[place])
        content.flat[place] = min(max(number, limits.min), limits.max)
        is_changed.append((content != before).any())
        np.save(copy / f"{array}.npy", content)

    assert look_at_copy(index, change) or is_changed[0]


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("kind", ["short", "long", "floats", "big-endian", "objects", "flat"])
def test_arrays_of_other_kinds_are_refused(index, array, kind):
    def change(copy):
        content = np.load(copy / f"{array}.npy")
        content = {
            "short": content[:-1],
            "long": np.concatenate((content, content[-1:])),
            "floats": content.astype(float),
            "big-endian": content.astype(">i8"),
            "objects": content.astype(object),
            "flat": content.reshape(-1, 1),
        }[kind]
        np.save(copy / f"{array}.npy", content, allow_pickle=True)

    assert not look_at_copy(index, change)


@pytest.mark.parametrize(
    ("key", "value"),
    [("folder", "/etc"), ("list_file", "/etc/passwd"), ("digest", "0" * 24), ("params", {"M": 9})],
)
def test_a_description_of_another_index_is_refused(index, key, value):
    def change(copy):
        meta = json.loads((copy / "meta.json").read_text())
        value_of_index = meta[key]
        meta[key] = value_of_index | value if key == "params" else value
        (copy / "meta.json").write_text(json.dumps(meta))

    assert not look_at_copy(index, change)


def test_two_processes_that_build_one_index_share_it(index, tmp_path):
    code = "import sys; from datasets.class_index import load_index; "
    code += "from datasets.partition import PartitionParams; "
    code += "sys.stdin.readline(); print(load_index(*sys.argv[1:2], PartitionParams(N=2, L=1, "
    code += "min_images_per_class=2), sys.argv[2]).path(0))"
    command = [sys.executable, "-c", code, index.folder, str(tmp_path / "cache")]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=200) for process in processes]
    assert outputs == [(f"{index.path(0)}\n", "")] * 2
    (folder,) = os.listdir(tmp_path / "cache")
    assert folder == index.index_folder.name
    assert sorted(os.listdir(tmp_path / "cache" / folder)) == sorted(FILES)
