import hashlib
import multiprocessing
import os
import pickle
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from conftest import name

import commons
from benchmarks.make_names import make_odd_lines
from datasets.class_index import ARRAYS, ClassIndex, load_index
from datasets.image_names import parse_image_name
from datasets.partition import PartitionParams, find_cells

PARAMS = PartitionParams(N=2, L=1, min_images_per_class=2)


@pytest.fixture
def train_folder(tmp_path):
    """Return a folder of empty files: an index never opens images."""
    rng = np.random.default_rng(0)
    for number in range(300):
        east_m, north_m = rng.uniform(0, 60, 2)
        folder = tmp_path / "train" / f"{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name(east_m, north_m, number % 90, pano_id=f"{number}")).touch()
    return tmp_path / "train"


def class_of(path):
    """Return the cell that a file name says."""
    fields = os.path.basename(path).split("@")
    return int(float(fields[1]) // 10), int(float(fields[2]) // 10), int(float(fields[9]) // 30)


def test_every_image_is_in_its_class(train_folder, tmp_path):
    index = load_index(train_folder, PARAMS, tmp_path / "cache")
    files = [str(file) for file in train_folder.rglob("*.jpg")]
    expected = dict.fromkeys(map(class_of, files), 0)
    for file in files:
        expected[class_of(file)] += 1
    expected = {cell: count for cell, count in expected.items() if count >= 2}
    met = {}
    for group in range(index.num_groups):
        for class_num in index.classes(group):
            paths = [index.path(image) for image in index.images(class_num)]
            assert all(os.path.exists(path) for path in paths) and len(set(paths)) == len(paths)
            (cell,) = {class_of(path) for path in paths}
            assert index.class_cells[class_num].tolist() == [
                10 * cell[0],
                10 * cell[1],
                30 * cell[2],
            ]
            met[cell] = len(paths)
    assert met == expected
    assert sum(index.num_images(group) for group in range(index.num_groups)) == sum(met.values())


def test_second_call_opens_the_same_index_without_building(train_folder, tmp_path, monkeypatch):
    first = load_index(train_folder, PARAMS, tmp_path / "cache")
    monkeypatch.setattr("datasets.class_index._build", None)
    monkeypatch.chdir(tmp_path)
    second = load_index("train/../train/", PARAMS, tmp_path / "cache")
    assert second.index_folder == first.index_folder
    assert isinstance(second.image_offsets, np.memmap)


@pytest.mark.parametrize("change", ["add", "rename", "remove", "list_file"])
def test_changed_folder_is_another_index(train_folder, tmp_path, change):
    before = load_index(train_folder, PARAMS, tmp_path / "cache")
    first = sorted(train_folder.rglob("*.jpg"))[0]
    if change == "add":
        (train_folder / name(1, 1, 1, pano_id="new")).touch()
    elif change == "rename":
        first.rename(first.with_name(name(59, 59, 1, pano_id="moved")))
    elif change == "remove":
        first.unlink()
    else:
        files = sorted(str(file.relative_to(train_folder)) for file in train_folder.rglob("*.jpg"))
        (tmp_path / "train_images_paths.txt").write_text("\n".join(files[:100]))
    after = load_index(train_folder, PARAMS, tmp_path / "cache")
    assert after.index_folder != before.index_folder and after.digest != before.digest
    count = {"add": 301, "rename": 300, "remove": 299, "list_file": 100}[change]
    assert after.num_listed_images == count


@pytest.mark.parametrize("field", ["M", "alpha", "N", "L", "min_images_per_class"])
def test_each_parameter_is_in_the_key(train_folder, tmp_path, field):
    first = load_index(train_folder, PARAMS, tmp_path / "cache")
    other = PartitionParams(**{**vars(PARAMS), field: getattr(PARAMS, field) + 1})
    second = load_index(train_folder, other, tmp_path / "cache")
    assert second.index_folder != first.index_folder and second.params == other


def test_folders_of_the_same_name_and_files_do_not_share_an_index(train_folder, tmp_path):
    copy = tmp_path / "elsewhere" / "train"
    for file in train_folder.rglob("*.jpg"):
        target = copy / file.relative_to(train_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    first = load_index(train_folder, PARAMS, tmp_path / "cache")
    second = load_index(copy, PARAMS, tmp_path / "cache")
    assert second.index_folder != first.index_folder
    assert second.path(0).startswith(str(copy)) and first.path(0).startswith(str(train_folder))
    assert second.digest == first.digest, "the same classes, wherever the folder is"


def test_list_file_is_read_in_place(train_folder, tmp_path):
    files = sorted(str(file.relative_to(train_folder)) for file in train_folder.rglob("*.jpg"))
    walked = load_index(train_folder, PARAMS, tmp_path / "cache")
    (tmp_path / "train_images_paths.txt").write_bytes("\r\n".join(files).encode())
    listed = load_index(train_folder, PARAMS, tmp_path / "cache")
    for class_num in range(len(walked.class_cells)):
        for image in walked.images(class_num):
            assert walked.path(image) == listed.path(image)
    assert not (listed.index_folder / "images_paths.txt").exists()


def test_workers_get_the_folder_not_the_data(train_folder, tmp_path):
    index = load_index(train_folder, PARAMS, tmp_path / "cache")
    pickled = pickle.dumps(index)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).path(5) == index.path(5)


def test_processes_may_build_at_once(train_folder, tmp_path):
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("fork")) as pool:
        jobs = [pool.submit(load_index, train_folder, PARAMS, tmp_path / "cache") for _ in range(8)]
        folders = {job.result().index_folder for job in jobs}
    assert os.listdir(tmp_path / "cache") == [folders.pop().name] and not folders


def test_the_process_that_finishes_second_uses_the_first_ones_index(
    train_folder, tmp_path, monkeypatch
):
    def split_while_another_process_builds(*arguments):
        monkeypatch.setattr("datasets.class_index.find_cells", find_cells)
        others.append(load_index(train_folder, PARAMS, tmp_path / "cache"))
        return find_cells(*arguments)

    others = []
    monkeypatch.setattr("datasets.class_index.find_cells", split_while_another_process_builds)
    index = load_index(train_folder, PARAMS, tmp_path / "cache")
    assert index.index_folder == others[0].index_folder
    assert os.listdir(tmp_path / "cache") == [index.index_folder.name]
    assert index.path(0) == others[0].path(0)


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "gone"])
@pytest.mark.parametrize("file", [*(f"{array}.npy" for array in ARRAYS), "images_paths.txt"])
def test_a_damaged_index_is_an_error_that_says_what_to_delete(train_folder, tmp_path, file, how):
    folder = load_index(train_folder, PARAMS, tmp_path / "cache").index_folder
    content = bytearray((folder / file).read_bytes())
    content[-3] ^= 16  # one bit
    (folder / file).write_bytes({"cut": content[:-9], "flipped": content}.get(how, b""))
    if how == "gone":
        (folder / file).unlink()
    for read in (ClassIndex, lambda _: load_index(train_folder, PARAMS, tmp_path / "cache")):
        with pytest.raises(ValueError, match=f"{folder.name} is damaged .*{file}.* delete that fo"):
            read(folder)


def test_an_index_is_on_the_disk_before_it_has_its_name(train_folder, tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("commons.sync_file", lambda path: synced.append(path.name))
    replace = os.replace

    def check(source, target):
        if source.is_dir():
            assert sorted(synced[-len(os.listdir(source)) :]) == sorted(os.listdir(source))
            synced.append("renamed")
        return replace(source, target)

    monkeypatch.setattr(os, "replace", check)
    load_index(train_folder, PARAMS, tmp_path / "cache")
    assert synced[-1] == "renamed"


def test_failed_build_leaves_nothing(train_folder, tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("datasets.class_index.np.save", fail)
    with pytest.raises(OSError, match="No space left"):
        load_index(train_folder, PARAMS, tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []


def test_a_cache_folder_that_cannot_be_made(train_folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    said = (
        f"cannot be saved in {tmp_path}/file/cache .*Not a directory.*: give another --cache_folder"
    )
    with pytest.raises(OSError, match=said):
        load_index(train_folder, PARAMS, "file/cache")


def test_what_killed_builders_left_is_removed_whatever_they_built(train_folder, tmp_path):
    cache = tmp_path / "cache"
    load_index(train_folder, PARAMS, cache)
    whole = os.listdir(cache)
    for number in (1, 2):
        (cache / f".train_of_old_names.unfinished_{number}").mkdir()
        (cache / f".train_of_old_names.unfinished_{number}.lock").touch()
    with commons.file_lock(cache / ".train_of_old_names.unfinished_2.lock"):
        load_index(train_folder, PARAMS, cache)
        assert len(os.listdir(cache)) == len(whole) + 2
    load_index(train_folder, PARAMS, cache)
    assert os.listdir(cache) == whole


def test_names_without_heading_build_nothing(train_folder, tmp_path):
    for number in range(4):
        (train_folder / name(1, 1, None, pano_id=f"none{number}")).touch()
    with pytest.raises(ValueError, match="heading .* in 4 of 304 images"):
        load_index(train_folder, PARAMS, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_too_few_groups_are_listed_with_their_counts(train_folder, tmp_path):
    index = load_index(train_folder, PARAMS, tmp_path / "cache")
    index.require_groups(index.num_groups)
    with pytest.raises(ValueError) as error:
        index.require_groups(index.num_groups + 1)
    message = str(error.value)
    assert f"only {index.num_groups} groups" in message
    for group in range(index.num_groups):
        assert f"{len(index.classes(group)):8,d}  {index.num_images(group):10,d}" in message
    nothing = load_index(
        train_folder, PartitionParams(min_images_per_class=1000), tmp_path / "cache"
    )
    with pytest.raises(ValueError, match="lower --min_images_per_class"):
        nothing.require_groups(1)


def write_list(tmp_path, lines, line_end="\n", mark=b""):
    """Write a list; only the first image exists."""
    folder = tmp_path / "listed"
    first = folder / lines[0]
    first.parent.mkdir(parents=True, exist_ok=True)
    first.touch()
    list_file = tmp_path / "listed_images_paths.txt"
    list_file.write_bytes(mark + line_end.join(lines).encode())  # the last line has no end
    return folder, list_file


def split_lines(lines: list[str], params: PartitionParams) -> dict[tuple, dict[tuple, list[str]]]:
    """Split names one by one: {group id: {class cell: paths of its images}}, in order."""
    classes = defaultdict(list)
    for path in lines:
        fields = parse_image_name(path)
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
@pytest.mark.parametrize("block", [1000, 1 << 20])
def test_odd_names_are_split_as_one_by_one(tmp_path, monkeypatch, line_end, mark, block):
    monkeypatch.setattr("datasets.image_lists._BYTES_PER_BLOCK", block)
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


def test_an_unchanged_list_is_not_read_again(tmp_path, monkeypatch):
    folder, _ = write_list(tmp_path, make_odd_lines(300))
    first = load_index(folder, PARAMS, tmp_path / "cache")
    monkeypatch.setattr("datasets.class_index._hash_names", None)
    second = load_index(folder, PARAMS, tmp_path / "cache")
    assert second.index_folder == first.index_folder and second.digest == first.digest
    assert pickle.loads(pickle.dumps(second)).path(0) == first.path(0)


def test_a_touched_list_is_hashed_once_and_not_split_again(tmp_path, monkeypatch):
    folder, list_file = write_list(tmp_path, make_odd_lines(300))
    first = load_index(folder, PARAMS, tmp_path / "cache")
    monkeypatch.setattr("datasets.class_index._build", None)
    copy = tmp_path / "copy.txt"
    copy.write_bytes(list_file.read_bytes())
    copy.replace(list_file)
    assert load_index(folder, PARAMS, tmp_path / "cache").index_folder == first.index_folder
    monkeypatch.setattr("datasets.class_index._hash_names", None)
    assert load_index(folder, PARAMS, tmp_path / "cache").index_folder == first.index_folder


@pytest.mark.parametrize("in_place", [True, False])
def test_a_changed_list_of_the_same_size_is_noticed(tmp_path, in_place):
    lines = make_odd_lines(300)
    folder, list_file = write_list(tmp_path, lines)
    first, size = load_index(folder, PARAMS, tmp_path / "cache"), list_file.stat().st_size
    new_file = list_file if in_place else tmp_path / "new.txt"
    new_file.write_text("\n".join([lines[0], *lines[:0:-1]]))
    new_file.replace(list_file)
    assert list_file.stat().st_size == size
    with pytest.raises(ValueError, match="was changed after the class index .* start again"):
        pickle.loads(pickle.dumps(first))
    second = load_index(folder, PARAMS, tmp_path / "cache")
    assert second.index_folder != first.index_folder and second.digest != first.digest
    list_file.write_text("\n".join(lines))
    assert load_index(folder, PARAMS, tmp_path / "cache").index_folder == first.index_folder


def test_a_list_that_was_emptied_or_deleted_is_noticed(tmp_path):
    folder, list_file = write_list(tmp_path, make_odd_lines(300))
    first = load_index(folder, PARAMS, tmp_path / "cache")
    list_file.write_bytes(b"")
    with pytest.raises(ValueError, match="was changed after the class index .* start again"):
        ClassIndex(first.index_folder)
    list_file.unlink()
    with pytest.raises(FileNotFoundError, match="listed_images_paths.txt"):
        ClassIndex(first.index_folder)


def test_the_index_of_a_cache_that_others_own_can_be_used(tmp_path, monkeypatch):
    folder, list_file = write_list(tmp_path, make_odd_lines(300))
    first = load_index(folder, PARAMS, tmp_path / "cache")

    def refuse(*_args):
        raise PermissionError("not yours")

    monkeypatch.setattr("commons.write_json", refuse)
    os.utime(list_file)
    assert load_index(folder, PARAMS, tmp_path / "cache").path(0) == first.path(0)


def test_digests_are_those_that_older_checkpoints_hold(tmp_path):
    lines = [name(1, 2, 3, pano_id="a"), name(1, 2, 4, pano_id="b")]
    folder, _ = write_list(tmp_path, lines)
    text = repr((1, PARAMS)) + "\n".join(lines)
    expected = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    assert load_index(folder, PARAMS, tmp_path / "cache").digest == expected
