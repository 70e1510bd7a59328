import os

import numpy as np
import pytest
from conftest import name, write_image

from benchmarks.make_names import make_odd_lines
from datasets import image_lists
from datasets.image_lists import (
    HAS_HEIF,
    IMAGE_EXTENSIONS,
    image_paths_of,
    list_images,
    read_list,
    read_text,
    split_lines,
    walk_images,
)


@pytest.fixture
def tree(tmp_path):
    """Return a folder of 7 empty images."""
    for file in ("b/1.jpg", "b/c/2.PNG", "b-a/3.jpg", "b.jpg", "b/c.jpeg", "a.jpg", "b0/4.jpg"):
        (tmp_path / "set" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / file).touch()
    (tmp_path / "set" / "b" / "notes.txt").touch()
    return tmp_path / "set"


def listed(text):
    """Return a text as the list of a folder."""
    return split_lines("/set", np.frombuffer(text, np.uint8))


def names_by_os_walk(folder):
    names = [
        os.path.relpath(os.path.join(parent, file), folder)
        for parent, _, files in os.walk(folder)
        for file in files
        if file.lower().endswith(IMAGE_EXTENSIONS)
    ]
    return sorted(names, key=os.fsencode)


def test_walk_is_sorted_by_relative_path_as_bytes(tree):
    text, _ = walk_images(tree)
    assert text.decode().splitlines() == names_by_os_walk(tree)
    assert text.decode().split()[:4] == ["a.jpg", "b-a/3.jpg", "b.jpg", "b/1.jpg"]


def test_links_are_followed_once(tree, tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "5.jpg").touch()
    (tree / "link").symlink_to(tmp_path / "elsewhere")
    (tree / "z_link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tree)
    (tree / "itself.jpg").symlink_to(tree / "itself.jpg")
    (tree / "file.jpg").symlink_to(tree / "a.jpg")
    names = walk_images(tree)[0].decode().splitlines()
    assert set(names) - set(names_by_os_walk(tree)) == {"link/deep/5.jpg"}
    assert {"itself.jpg", "file.jpg"} <= set(names) and len(names) == 10


def test_walk_finds_all_extensions_in_sub_folders_sorted_by_relative_path(tmp_path):
    names = ["b/@2@2@.JPG", "b-a/@3@3@.png", "@1@1@.jpeg", "b/c@d/@4@4@.Jpg"]
    for file in [*names, "readme.txt", "b/@9@9@.jpg.part"]:
        write_image(tmp_path / file) if file in names else (tmp_path / file).write_text("")
    paths = list_images(tmp_path)
    assert list(paths) == sorted(os.path.join(tmp_path, file) for file in names)
    assert paths[-1] == paths[len(paths) - 1]


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    write_image(tmp_path / "elsewhere" / name(1, 1))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "circle").symlink_to(tmp_path / "set")
    assert len(list_images(tmp_path / "set")) == 1


@pytest.mark.parametrize(
    "text", ["b/2.jpg\na/1.jpg\n", "b/2.jpg\r\n\r\na/1.jpg\r\n", "b/2.jpg\na/1.jpg"]
)
def test_list_file_is_used_in_its_order_instead_of_walking(tmp_path, text):
    for file in ("a/1.jpg", "b/2.jpg", "not_listed.jpg"):
        write_image(tmp_path / "train" / file)
    (tmp_path / "train_images_paths.txt").write_bytes(text.encode())
    paths = list_images(tmp_path / "train" / "")
    assert list(paths) == [str(tmp_path / "train/b/2.jpg"), str(tmp_path / "train/a/1.jpg")]


def test_list_file_stands_beside_the_folder_as_it_was_given(tmp_path):
    for file in ("1.jpg", "2.jpg"):
        write_image(tmp_path / "disk" / "images" / file)
    (tmp_path / "train").symlink_to(tmp_path / "disk" / "images")
    (tmp_path / "train_images_paths.txt").write_bytes(b"\xef\xbb\xbf2.jpg\n")
    assert list(list_images(tmp_path / "train")) == [str(tmp_path / "disk/images/2.jpg")]
    assert len(list_images(tmp_path / "disk" / "images")) == 2
    (tmp_path / "disk" / "images_images_paths.txt").write_text("1.jpg")
    assert list(list_images(tmp_path / "disk" / "images")) == [str(tmp_path / "disk/images/1.jpg")]


def test_a_path_with_a_newline_would_break_a_list_and_is_refused(tree):
    (tree / "c\nd").mkdir()
    for column in range(2):
        (tree / "c\nd" / name(1, column)).touch()
    with pytest.raises(ValueError, match="2 image names contain a newline, for example .*: rename"):
        list_images(tree)
    photo = tree / "c\nd" / name(1, 0)  # single files are in no list
    assert list(image_paths_of([photo, tree / "c\nd" / name(1, 1)]))[0] == str(photo)


def test_a_tab_is_a_letter_like_others(tree):
    (tree / "a\tb.jpg").touch()
    assert str(tree / "a\tb.jpg") in list(list_images(tree))


def test_names_outside_utf8_survive(tmp_path):
    os.makedirs(tmp_path / "set")
    with open(os.fsencode(tmp_path) + b"/set/@1@2@caf\xe9@.jpg", "wb"):
        pass
    (path,) = list_images(tmp_path / "set")
    assert os.path.exists(path)


def test_missing_empty_and_wrongly_listed_folders_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match="No image in .*empty: looked for .jpg, .jpeg, .png"
    ):
        list_images(tmp_path / "empty")
    (tmp_path / "empty_images_paths.txt").write_text("gone.jpg\n")
    with pytest.raises(FileNotFoundError, match="lists .*gone.jpg, which does not exist"):
        list_images(tmp_path / "empty")


@pytest.mark.parametrize("block", [7, 300, 1 << 20])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\n\r\n"])
@pytest.mark.parametrize("last", [b"", b"\n", b"\n\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_are_split_whatever_ends_them(tmp_path, monkeypatch, block, line_end, last, mark):
    monkeypatch.setattr(image_lists, "_BYTES_PER_BLOCK", block)
    lines = [line.encode() for line in make_odd_lines(100)]
    text = mark + line_end.join(lines) + last
    (tmp_path / "list.txt").write_bytes(text)
    paths = read_list(tmp_path / "list.txt", tmp_path)
    assert list(paths.lines()) == lines and paths.list_file == tmp_path / "list.txt"
    places = zip(paths.starts.tolist(), lines, strict=True)
    assert all(text[place : place + len(line)] == line for place, line in places)


@pytest.mark.parametrize("text", [b"", b"\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n\n"])
def test_a_list_may_be_empty(tmp_path, text):
    (tmp_path / "list.txt").write_bytes(text)
    assert len(read_list(tmp_path / "list.txt", tmp_path)) == 0


def test_a_mapped_list_is_as_one_that_is_read(tmp_path):
    lines = make_odd_lines(300)
    (tmp_path / "list.txt").write_text("\n".join(lines))
    assert isinstance(read_text(tmp_path / "list.txt", is_mapped=True).base, np.memmap)
    read, mapped = (read_list(tmp_path / "list.txt", tmp_path, mapped) for mapped in (False, True))
    assert type(mapped.blob) is np.ndarray, "compiled loops know no other kind"
    assert list(mapped) == list(read) == [os.path.join(tmp_path, line) for line in lines]
    (tmp_path / "list.txt").write_bytes(b"")
    assert len(read_list(tmp_path / "list.txt", tmp_path, is_mapped=True)) == 0


def test_every_file_is_an_image_or_counted(tmp_path):
    images = ["a.jpg", "b.WebP", "c.bmp", "d.tif", "e.TIFF", "sub/f.png"]
    others = ["g.HEIC", "h.heic", "notes.txt", "README", "sub/x.raw"]
    system = ["._a.jpg", ".DS_Store", "Thumbs.db", "@eaDir/a.jpg", "sub/__MACOSX/._f.png"]
    for file in (*images, *others, *system):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    paths = list_images(tmp_path)
    assert [paths.name(index) for index in range(len(paths))] == images
    heic = "" if HAS_HEIF else "2 .heic, "
    hint = "" if HAS_HEIF else " (pip install pillow-heif to read them)"
    assert paths.left_out == (
        f"{tmp_path}: {heic}1 .raw, 1 .txt, 1 without an extension not read{hint}; "
        "5 of ._*, @eaDir and the like left out"
    )


def test_a_link_to_a_folder_above_is_not_followed(tmp_path):
    for file in ("set/database/a.jpg", "set/queries/q.jpg"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    (tmp_path / "set" / "database" / "up").symlink_to(tmp_path / "set")
    paths = list_images(tmp_path / "set" / "database")
    assert [*paths] == [f"{tmp_path}/set/database/a.jpg"]
    assert paths.left_out.endswith("1 link to a folder that holds this one not read")


@pytest.mark.parametrize("folder", ["#recycle", "$RECYCLE.BIN", ".Trash-1000", ".snapshot"])
def test_deleted_images_and_snapshots_are_no_images(tmp_path, folder):
    for file in ("a.jpg", f"sub/{folder}/deep/b.jpg"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    paths = list_images(tmp_path)
    assert [*paths] == [f"{tmp_path}/a.jpg"]
    assert paths.left_out == f"{tmp_path}: 1 of ._*, @eaDir and the like left out"


def test_an_empty_folder_says_what_is_in_it(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="looked for .*1 .txt not read"):
        list_images(tmp_path)
