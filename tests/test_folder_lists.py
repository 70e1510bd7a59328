import json
import logging
import os

import pytest
from conftest import name

from datasets import folder_lists
from datasets.folder_lists import IMAGE_EXTENSIONS, keep_list, walk_images
from datasets.image_paths import find_list_file, list_images
from datasets.name_source import find_names


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Return a folder of 7 empty images that counts as large and was not changed just now."""
    monkeypatch.setattr(folder_lists, "_MIN_KEPT_IMAGES", 3)
    monkeypatch.setattr(folder_lists, "_SETTLED_NS", 0)
    for file in ("b/1.jpg", "b/c/2.PNG", "b-a/3.jpg", "b.jpg", "b/c.jpeg", "a.jpg", "b0/4.jpg"):
        (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / file).touch()
    (tmp_path / "set" / "b" / "notes.txt").touch()
    return tmp_path / "set"


def names_by_os_walk(folder):
    names = [
        os.path.relpath(os.path.join(parent, file), folder)
        for parent, _, files in os.walk(folder)
        for file in files
        if file.lower().endswith(IMAGE_EXTENSIONS)
    ]
    return sorted(names, key=os.fsencode)


def names_in(source):
    return [os.fsdecode(line) for _, paths in source.blocks() for line in paths.lines()]


def test_walk_is_sorted_by_relative_path_as_bytes(tree):
    text = b"".join(walk_images(tree).texts)
    assert text.decode().splitlines() == names_by_os_walk(tree)
    assert text.decode().split()[:4] == ["a.jpg", "b-a/3.jpg", "b.jpg", "b/1.jpg"]
    assert walk_images(tree).num_images == 7
    assert set(walk_images(tree).stamps) == {"", "b/", "b/c/", "b-a/", "b0/"}


def test_links_are_followed_once(tree, tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "5.jpg").touch()
    (tree / "link").symlink_to(tmp_path / "elsewhere")
    (tree / "z_link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tree)
    (tree / "itself.jpg").symlink_to(tree / "itself.jpg")
    (tree / "file.jpg").symlink_to(tree / "a.jpg")
    names = b"".join(walk_images(tree).texts).decode().splitlines()
    assert set(names) - set(names_by_os_walk(tree)) == {"link/deep/5.jpg"}
    assert {"itself.jpg", "file.jpg"} <= set(names) and len(names) == 10


def test_the_list_of_a_large_folder_is_kept_for_next_time(tree, tmp_path, caplog, monkeypatch):
    with caplog.at_level(logging.INFO):
        first = find_names(tree)
    assert "now lists the 7 images" in caplog.text and "may delete it" in caplog.text
    list_file = tmp_path / "set_images_paths.txt"
    assert first.list_file == list_file and first.walked == b""
    assert list_file.read_text().splitlines() == names_by_os_walk(tree) == names_in(first)
    assert len(list_images(tree)) == 7
    monkeypatch.setattr("datasets.name_source.walk_images", None)
    assert names_in(find_names(tree)) == names_in(first)
    assert sorted(os.listdir(tmp_path)) == [
        "set",
        "set_images_paths.json",
        "set_images_paths.txt",
    ]


def change(tree, how):
    if how == "add":
        (tree / "b" / "c" / "new.jpg").touch()
    elif how == "remove":
        (tree / "b-a" / "3.jpg").unlink()
    elif how == "rename":
        (tree / "b" / "1.jpg").rename(tree / "b" / "9.jpg")
    elif how == "new folder":
        (tree / "b" / "d").mkdir()
        (tree / "b" / "d" / "5.jpg").touch()
    elif how == "folder gone":
        (tree / "b0" / "4.jpg").unlink()
        (tree / "b0").rmdir()


@pytest.mark.parametrize("how", ["add", "remove", "rename", "new folder", "folder gone"])
def test_a_kept_list_that_is_outdated_is_written_anew(tree, tmp_path, how):
    find_names(tree)
    before = names_by_os_walk(tree)
    change(tree, how)
    assert find_list_file(tree) is None, "nobody reads it"
    assert [os.path.relpath(path, tree) for path in list_images(tree)] == names_by_os_walk(tree)
    renewed = find_names(tree)
    assert renewed.list_file == tmp_path / "set_images_paths.txt"
    assert names_in(renewed) == names_by_os_walk(tree) != before


def test_a_folder_that_changed_just_now_is_walked_again(tree, monkeypatch):
    monkeypatch.setattr(folder_lists, "_SETTLED_NS", 10**18)
    find_names(tree)
    assert find_list_file(tree) is None


@pytest.mark.parametrize("edit", ["append", "replace", "record gone", "record damaged"])
def test_a_list_that_is_not_ours_is_used_and_stays(tree, tmp_path, edit):
    list_file, record = (find_names(tree).list_file, tmp_path / "set_images_paths.json")
    if edit == "append":
        list_file.write_text(list_file.read_text() + "b/1.jpg\n")
    elif edit == "replace":
        (tmp_path / "other.txt").write_text("b.jpg\n")
        (tmp_path / "other.txt").replace(list_file)
    elif edit == "record gone":
        record.unlink()
    else:
        record.write_text("[]")
    (tree / "new.jpg").touch()
    content = list_file.read_bytes()
    assert find_names(tree).list_file == list_file
    assert keep_list(walk_images(tree), tree) is None
    assert list_file.read_bytes() == content


def test_small_folders_get_no_list(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lists, "_MIN_KEPT_IMAGES", 8)
    assert names_in(find_names(tree)) == names_by_os_walk(tree)
    assert os.listdir(tmp_path) == ["set"]


def test_a_list_is_on_the_disk_before_it_has_its_name(tree, monkeypatch):
    events, link = [], os.link
    monkeypatch.setattr("commons.sync_file", lambda path: events.append(path.name))
    monkeypatch.setattr("commons.sync_folder", lambda path: events.append(path.name))
    monkeypatch.setattr(os, "link", lambda *names: events.append("link") or link(*names))
    find_names(tree)
    process = os.getpid()
    assert events.index(f".set_images_paths.txt_{process}") < events.index("link")
    assert events[-2:] == ["link", tree.parent.name]


@pytest.mark.parametrize("failing", ["os.link", "commons.write_json"])
def test_where_nothing_can_be_written_nothing_is_left(tree, tmp_path, monkeypatch, caplog, failing):
    def refuse(*_args, **_kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr(f"datasets.folder_lists.{failing}", refuse)
    with caplog.at_level(logging.INFO):
        source = find_names(tree)
    assert source.list_file is None and names_in(source) == names_by_os_walk(tree)
    assert os.listdir(tmp_path) == ["set"] and not caplog.text


def test_a_list_that_appears_while_one_is_written_stays(tree, tmp_path, monkeypatch):
    def link_too_late(temporary, list_file):
        (tmp_path / "set_images_paths.txt").write_text("a.jpg\n")
        return os_link(temporary, list_file)

    os_link = os.link
    monkeypatch.setattr("datasets.folder_lists.os.link", link_too_late)
    assert find_names(tree).list_file is None
    assert (tmp_path / "set_images_paths.txt").read_text() == "a.jpg\n"


@pytest.mark.parametrize("last_step", ["os.link", "commons.write_json"])
def test_a_writer_that_dies_leaves_no_list_that_passes_for_the_users(tree, monkeypatch, last_step):
    def die(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(f"datasets.folder_lists.{last_step}", die)
        find_names(tree)
    (tree / "new.jpg").touch()
    assert names_in(find_names(tree)) == names_by_os_walk(tree)
    assert find_list_file(tree) is not None


def test_names_outside_utf8_are_kept(tree):
    folder = os.fsencode(tree) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/\xff.jpg", "wb"):
        pass
    source = find_names(tree)
    assert [os.path.exists(path) for _, paths in source.blocks() for path in paths] == [True] * 8
    assert find_list_file(tree) == source.list_file
    assert (
        os.fsdecode(b"caf\xe9/")
        in json.loads(source.list_file.with_suffix(".json").read_text())["folders"]
    )


@pytest.mark.parametrize("separator", ["\n", "\t"])
def test_folders_whose_names_would_break_a_list_are_refused(tree, separator):
    (tree / f"c{separator}d").mkdir()
    for number in range(2):
        (tree / f"c{separator}d" / name(1, number)).touch()
    with pytest.raises(ValueError, match="2 image names contain a newline or a tab"):
        walk_images(tree)
