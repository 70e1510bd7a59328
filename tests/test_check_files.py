"""What the check finds out about files, lists and images; each flaw with a known number."""

import os
import struct
import zlib

import numpy as np
import pytest
from conftest import write_image
from PIL import Image

from datasets.image_lists import list_images
from tools.check.files import check_files, find_repeated, hash_lines
from tools.check.findings import (
    ERROR,
    FACT,
    OK,
    WARNING,
    Finding,
    Section,
    format_counts,
    format_remedies,
    format_section,
    show,
)
from tools.check.image_files import choose_sample, inspect_image, judge_images, measure_images


def texts(findings, level):
    return [finding.text for finding in findings if finding.level == level]


def png_of(width, height, path):
    """Write a PNG that claims a size and holds a few bytes of pixels."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return str(path)


def test_files_that_are_not_read_are_counted(tmp_path):
    folder = tmp_path / "set"
    for file in ("b/2.JPG", "b-a/3.png", "1.jpeg"):
        write_image(folder / file)
    (folder / "again").symlink_to(folder / "b")
    (folder / "circle").symlink_to(folder)
    write_image(folder / "@eaDir" / "1.jpg")
    for file in ("a.gif", "b/b.HEIC", "c.HEIC", "readme.txt", "LICENSE", "Thumbs.db"):
        (folder / file).touch()
    (folder / "self").symlink_to("self")
    paths, is_missing, findings = check_files(folder)
    assert [*paths] == [*list_images(folder)] and not is_missing.any()
    assert texts(findings, OK) == ["3 (.jpeg: 1, .jpg: 1, .png: 1)"]
    assert texts(findings, WARNING) == ["of types that are not read: .heic: 2, .gif: 1"]
    assert texts(findings, FACT) == [
        "not images, not read: ._*, @eaDir and the like: 2, without an extension: 2, .txt: 1"
    ]


@pytest.mark.parametrize("fault", ["folder", "name"])
def test_folders_that_cannot_be_listed_are_errors(tmp_path, monkeypatch, fault):
    write_image(tmp_path / "open" / "1.jpg")
    write_image(tmp_path / "shut" / "2.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.fsencode(path).rstrip(b"/").endswith(b"shut"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    if fault == "folder":
        monkeypatch.setattr(os, "scandir", refuse)
    else:
        (tmp_path / "new\nline.jpg").touch()
    paths, _, findings = check_files(tmp_path)
    assert len(paths) == 0
    reason = {"folder": "Permission denied", "name": "contain a newline"}[fault]
    assert reason in texts(findings, ERROR)[1] and len(texts(findings, ERROR)) == 2


def test_list_is_compared_with_the_folder(tmp_path):
    for file in ("a/1.jpg", "a/2.jpg", "3.jpg", "4.jpg"):
        write_image(tmp_path / "set" / file)
    listed = ["./a/1.jpg", "a/2.jpg", "gone/5.jpg", "6.jpg", "a/2.jpg", "a..b/c"]
    (tmp_path / "set_images_paths.txt").write_text("\n".join(listed))
    _, is_missing, findings = check_files(tmp_path / "set" / "")
    assert is_missing.tolist() == [False, False, True, True, False, True]
    assert texts(findings, OK)[0].startswith("6 (.jpg: 5, no extension: 1), as listed in")
    assert texts(findings, ERROR) == ["3 of 6 listed images do not exist:"]
    not_listed, repeated = (f for f in findings if f.level == WARNING)
    assert not_listed.text.startswith("3 images"), "a/1.jpg has another name in the list"
    assert not_listed.details == ("3.jpg", "4.jpg", "a/1.jpg")
    assert repeated.text.startswith("1 line for an image") and repeated.details == ("a/2.jpg",)
    (tmp_path / "set_images_paths.txt").write_text("a/1.jpg\na/2.jpg\n3.jpg\n4.jpg\n")
    findings = check_files(tmp_path / "set", num_expected=5)[2]
    assert texts(findings, OK)[1:] == ["every listed image exists"]
    assert texts(findings, WARNING) == ["4 images, expected 5"]


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("set/1.jpg\n", "remove its name"),
        ("a\\1.jpg\n", "must have / between folders"),
        ("gone.jpg\n", "bring 1 missing image into"),
        ("../set/1.jpg\n", "correct the list"),
        ("", "write paths into set_images_paths.txt"),
    ],
)
def test_wrong_lists_have_their_own_remedies(tmp_path, text, remedy):
    write_image(tmp_path / "set" / "1.jpg")
    (tmp_path / "set_images_paths.txt").write_text(text)
    errors = [f for f in check_files(tmp_path / "set")[2] if f.level == ERROR]
    assert len(errors) == 1 and remedy in errors[0].remedy


def test_an_unreadable_list_is_reported_and_the_folder_read(tmp_path, monkeypatch):
    write_image(tmp_path / "set" / "1.jpg")
    (tmp_path / "set_images_paths.txt").touch()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "fromfile", refuse)
    paths, _, findings = check_files(tmp_path / "set")
    assert len(paths) == 1
    (text,) = texts(findings, ERROR)
    assert text.startswith("cannot be used: ") and text.endswith("Permission denied")


def test_real_names_without_their_images(shared_data, tmp_path):
    names = (shared_data / "tokyo247/database_images_paths.txt").read_bytes()
    (tmp_path / "database").mkdir()
    (tmp_path / "database_images_paths.txt").write_bytes(names)
    paths, is_missing, findings = check_files(tmp_path / "database")
    assert len(paths) == 75_984 and is_missing.all()
    assert texts(findings, OK)[0].startswith("75,984 (.jpg: 75,984)")
    assert not texts(findings, WARNING)
    assert len(np.unique(hash_lines(paths))) == len(set(names.split()))


def test_repeated_values_are_all_but_the_first():
    assert find_repeated(np.array([7, 5, 7, 7, 5, 1])).tolist() == [2, 3, 4]
    assert find_repeated(np.array([], np.int64)).tolist() == []


def test_every_kind_of_bad_file_is_reported(tmp_path):
    whole = str(write_image(tmp_path / "whole.jpg"))
    assert inspect_image(whole, decode=True).problem == ""
    bad = {
        "truncated": tmp_path / "truncated.jpg",
        "not an image": tmp_path / "page.jpg",
        "empty": tmp_path / "empty.jpg",
        "not a file": tmp_path / "pipe.jpg",
        "No such file": tmp_path / "gone.jpg",
        "too many pixels": tmp_path / "bomb.png",
    }
    bad["truncated"].write_bytes((tmp_path / "whole.jpg").read_bytes()[:-20])
    bad["not an image"].write_text("<html>404</html>")
    bad["empty"].touch()
    os.mkfifo(bad["not a file"])
    png_of(60_000, 60_000, bad["too many pixels"])
    for problem, path in bad.items():
        assert problem in inspect_image(str(path), decode=True).problem
    assert inspect_image(str(bad["truncated"]), decode=False).problem == ""
    assert "truncated" in inspect_image(png_of(9, 900, tmp_path / "short.png"), True).problem
    huge = inspect_image(png_of(12_000, 9_000, tmp_path / "huge.png"), decode=True)
    assert huge.is_huge and huge.problem == "" and huge.size == "9000x12000"


def test_types_and_depths_of_all_formats(tmp_path):
    for file in ("a.jpg", "b.png", "c.tif", "d.webp", "e.bmp", "f.TIFF"):
        write_image(tmp_path / file)
    Image.new("RGB", (4, 4)).save(tmp_path / "g.webp", "BMP")
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "h.png")
    Image.new("P", (4, 4)).save(tmp_path / "i.png")
    paths = list_images(tmp_path)
    facts = measure_images(paths, np.arange(len(paths)), False, 0, "set")
    assert facts.misnamed == {"BMP in .webp": 1}
    findings = judge_images(paths, facts, num_existing=len(paths))
    assert "1 image of more than 8 bits a channel, which are cut off: I;16: 1" in texts(
        findings, WARNING
    )
    assert "read as RGB: palette: 1" in texts(findings, FACT)


@pytest.mark.parametrize(("decode", "num_workers"), [(True, 0), (True, 2), (False, 0), (False, 2)])
def test_sizes_modes_and_copies(tmp_path, decode, num_workers):
    folder = tmp_path / "set"
    for number in range(70):  # several tasks for each worker
        write_image(folder / f"{number:02d}.png", (20, 10 + number % 2))
    (folder / "70.png").write_bytes((folder / "03.png").read_bytes())
    Image.new("L", (20, 10)).save(folder / "71.png")
    Image.new("CMYK", (20, 10)).save(folder / "72.jpg")
    Image.new("RGB", (20, 11)).save(folder / "73.png", "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(folder / "74.jpg", exif=exif)
    (folder / "75.jpg").write_text("no image")
    paths = list_images(folder)
    everything = choose_sample(np.zeros(len(paths), bool), None)
    facts = measure_images(paths, everything, decode, num_workers, "set")
    assert facts.sizes == {"10x20": 37, "11x20": 37, "20x10": 1}
    assert facts.modes == {"RGB": 73, "L": 1, "CMYK": 1} and facts.num_rotated == 1
    assert facts.misnamed == {"JPEG in .png": 1}
    assert facts.problems == [(paths[75], "not an image")]
    assert [paths.name(index) for index in facts.identical] == ["70.png"] * decode
    findings = judge_images(paths, facts, num_existing=len(paths))
    assert len(texts(findings, ERROR)) == 1 and "11x20: 37" in texts(findings, FACT)[0]
    assert "read as RGB: CMYK: 1, grey: 1" in texts(findings, FACT)


def test_sample_is_spread_over_the_images_that_exist():
    is_missing = np.zeros(1000, bool)
    is_missing[::2] = True
    assert choose_sample(is_missing, 5).tolist() == [1, 201, 401, 601, 801]
    assert len(choose_sample(is_missing, 500)) == len(choose_sample(is_missing, None)) == 500
    assert len(choose_sample(is_missing, 0)) == 0


def test_names_are_shown_so_that_terminals_survive():
    assert show(b"caf\xc3\xa9 \xe6\x97\xa5.jpg") == "caf\u00e9 \u65e5.jpg"
    assert show(os.fsdecode(b"\xe9\x1b[31m\n.jpg")) == r"\xe9\x1b[31m\n.jpg"
    assert show("\u202egpj") == r"\u202egpj"


def test_report_is_aligned_and_says_each_remedy_once():
    error = Finding(ERROR, "list", "wrong", ("a.jpg",), "mend it")
    warning = Finding(WARNING, "a long subject", "odd " * 40, remedy="look at it")
    section = Section("val/queries", "queries in x", (warning, error, error))
    lines = format_section(section).split("\n")
    columns = {
        line.index(word) for line in lines[1:] for word in ("odd", "wrong", "a.jpg") if word in line
    }
    assert lines[0] == "val/queries: queries in x" and columns == {27}
    assert max(map(len, lines)) <= 110
    remedies = format_remedies([section])
    assert remedies.split("\n")[1:] == [
        "  ERROR    val/queries: mend it",
        "  warning  val/queries: look at it",
    ]
    assert format_remedies([]) == "Nothing has to be renamed or changed"


def test_counts_in_words():
    assert format_counts({"b": 1, "a": 1, "c": 2000}) == "c: 2,000, a: 1, b: 1"
    assert format_counts({1: 9, 2: 8, 3: 7}, limit=1) == "1: 9, 2 others: 15"
