import hashlib
import os
import pickle
from collections import defaultdict

import numpy as np
import pytest
from conftest import name

from benchmarks.odd_names import make_odd_lines
from datasets.class_index import load_index
from datasets.image_paths import parse_image_name
from datasets.index_files import hash_names
from datasets.partition import PartitionParams

PARAMS = PartitionParams(N=2, L=1, min_images_per_class=2)


@pytest.fixture
def settled(monkeypatch):
    """Let files that were just written pass for old ones."""
    monkeypatch.setattr("datasets.folder_lists._SETTLED_NS", 0)


def write_list(tmp_path, lines, line_end="\n", mark=b""):
    """Write a list; only the first image exists."""
    folder = tmp_path / "listed"
    first = folder / lines[0].partition("\t")[0]
    first.parent.mkdir(parents=True, exist_ok=True)
    first.touch()
    list_file = tmp_path / "listed_images_paths.txt"
    list_file.write_bytes(mark + line_end.join(lines).encode())  # the last line has no end
    return folder, list_file


def split_lines(lines: list[str], params: PartitionParams) -> dict[tuple, dict[tuple, list[str]]]:
    """Split names one by one: {group id: {class cell: paths of its images}}, in order."""
    classes = defaultdict(list)
    for line in lines:
        path, _, name = line.partition("\t")
        fields = parse_image_name(name or path)
        cell = (
            int(fields.utm_east_m // params.M) * params.M,
            int(fields.utm_north_m // params.M) * params.M,
            int(fields.heading_deg % 360 // params.alpha) * params.alpha,
        )
        classes[cell].append(path)
    groups: dict[tuple, dict[tuple, list[str]]] = {}
    for cell, paths in classes.items():
        if len(paths) >= params.min_images_per_class:
            group = (
                cell[0] // params.M % params.N,
                cell[1] // params.M % params.N,
                cell[2] // params.alpha % params.L,
            )
            groups.setdefault(group, {})[cell] = paths
    return groups


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("block", [1000, 1 << 23])
def test_odd_names_are_split_as_one_by_one(tmp_path, monkeypatch, line_end, mark, block):
    monkeypatch.setattr("datasets.name_source._BYTES_PER_BLOCK", block)
    lines = make_odd_lines(3000)
    folder, _ = write_list(tmp_path, lines, line_end, mark)
    expected = split_lines(lines, PARAMS)
    index = load_index(folder, PARAMS, tmp_path / "cache")
    assert [tuple(group_id) for group_id in index.group_ids.tolist()] == list(expected)
    for group, classes in enumerate(expected.values()):
        cells = [tuple(index.class_cells[number].tolist()) for number in index.classes(group)]
        assert cells == sorted(classes)
        for cell, number in zip(cells, index.classes(group), strict=True):
            paths = [index.path(image) for image in index.images(number)]
            assert paths == [os.path.join(folder, path) for path in classes[cell]]
    assert index.num_listed_images == 3000 and len(expected) == 4


def test_offsets_in_a_list_of_4_gb_are_64_bit(tmp_path, monkeypatch):
    lines = make_odd_lines(200)
    folder, _ = write_list(tmp_path, lines)
    small = load_index(folder, PARAMS, tmp_path / "cache")
    monkeypatch.setattr("datasets.index_files.os.path.getsize", lambda _: 2**32)
    large = load_index(folder, PARAMS, tmp_path / "other")
    assert (small.image_offsets.dtype, large.image_offsets.dtype) == (np.uint32, np.int64)
    assert len(large.image_offsets) == len(small.image_offsets) > 20
    assert all(large.path(i) == small.path(i) for i in range(len(large.image_offsets)))


def test_an_unchanged_list_is_not_read_again(tmp_path, monkeypatch, settled):
    folder, _ = write_list(tmp_path, make_odd_lines(300))
    first = load_index(folder, PARAMS, tmp_path / "cache")
    monkeypatch.setattr("datasets.class_index.hash_names", None)
    second = load_index(folder, PARAMS, tmp_path / "cache")
    assert second.index_folder == first.index_folder and second.digest == first.digest
    assert pickle.loads(pickle.dumps(second)).path(0) == first.path(0)


def test_a_touched_list_is_hashed_once_and_not_split_again(tmp_path, monkeypatch, settled):
    folder, list_file = write_list(tmp_path, make_odd_lines(300))
    first = load_index(folder, PARAMS, tmp_path / "cache")
    monkeypatch.setattr("datasets.class_index.build_index", None)
    copy = tmp_path / "copy.txt"
    copy.write_bytes(list_file.read_bytes())
    copy.replace(list_file)
    assert load_index(folder, PARAMS, tmp_path / "cache").index_folder == first.index_folder
    monkeypatch.setattr("datasets.class_index.hash_names", None)
    assert load_index(folder, PARAMS, tmp_path / "cache").index_folder == first.index_folder


@pytest.mark.parametrize("is_settled", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_changed_list_of_the_same_size_and_time_is_noticed(
    tmp_path, monkeypatch, is_settled, in_place
):
    monkeypatch.setattr("datasets.folder_lists._SETTLED_NS", 0 if is_settled else 10**18)
    lines = make_odd_lines(300)
    folder, list_file = write_list(tmp_path, lines)
    first = load_index(folder, PARAMS, tmp_path / "cache")
    status = list_file.stat()
    new_file = list_file if in_place else tmp_path / "new.txt"
    new_file.write_text("\n".join([lines[0], *lines[:0:-1]]))
    new_file.replace(list_file)
    os.utime(list_file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert list_file.stat().st_size == status.st_size
    with pytest.raises(ValueError, match="was changed after the index .* start again"):
        pickle.loads(pickle.dumps(first))
    second = load_index(folder, PARAMS, tmp_path / "cache")
    assert second.index_folder != first.index_folder and second.digest != first.digest
    list_file.write_text("\n".join(lines))
    assert load_index(folder, PARAMS, tmp_path / "cache").index_folder == first.index_folder


def test_a_list_that_was_written_just_now_is_hashed_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.folder_lists._SETTLED_NS", 10**18)
    folder, _ = write_list(tmp_path, make_odd_lines(300))
    first = load_index(folder, PARAMS, tmp_path / "cache")
    num_hashed = []
    monkeypatch.setattr(
        "datasets.class_index.hash_names", lambda *a: num_hashed.append(1) or hash_names(*a)
    )
    assert load_index(folder, PARAMS, tmp_path / "cache").index_folder == first.index_folder
    assert num_hashed


def test_the_index_of_a_cache_that_others_own_can_be_used(tmp_path, monkeypatch):
    folder, _ = write_list(tmp_path, make_odd_lines(300))
    first = load_index(folder, PARAMS, tmp_path / "cache")

    def refuse(*_args):
        raise PermissionError("not yours")

    monkeypatch.setattr("commons.write_json", refuse)
    assert load_index(folder, PARAMS, tmp_path / "cache").path(0) == first.path(0)


def test_digests_are_those_that_older_checkpoints_hold(tmp_path):
    lines = [name(1, 2, 3, pano_id="a"), name(1, 2, 4, pano_id="b")]
    folder, _ = write_list(tmp_path, lines)
    text = repr((1, PARAMS)) + "\n".join(lines)
    expected = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    assert load_index(folder, PARAMS, tmp_path / "cache").digest == expected
