"""Lists of images from strangers: they lead nowhere but into their folder."""

import pytest
from conftest import name, write_image

import eval as evaluation_command
import localize
import train
from datasets.class_index import ClassIndex, load_index
from datasets.image_lists import list_images
from datasets.partition import PartitionParams
from tools.check import __main__ as check

PARAMS = PartitionParams(N=2, L=1, min_images_per_class=1)
UNTRAINED = (
    *("--untrained", "--backbone=Tiny", "--backbone_weights=none", "--fc_output_dim=8"),
    "--device=cpu",
)

FAULTS = {
    "upwards": "../../etc/passwd",
    "upwards later": f"a/../../secret/{name(1, 2, 3)}",
    "upwards at the end": "a/..",
    "absolute": f"/home/me/{name(1, 2, 3)}",
    "zero byte": f"a\0b/{name(1, 2, 3)}",
    "zero byte in the name": f"a/{name(1, 2, 3, note=chr(0))}",
    "absolute, with a tab": f"/photos/1.jpg\t{name(1, 2, 3)}",
}
REASONS = {"upwards": "without '..'", "absolute": "not relative", "zero byte": "a zero byte"}


def write_list(tmp_path, bad_line, place, line_end="\n", mark=b""):
    """Write a list of 50 images, of which the first exists, with one bad line."""
    lines = [name(10.0 * number, 2, 3, pano_id=f"a..b{number}") for number in range(50)]
    write_image(tmp_path / "set" / lines[0])
    lines[3:4] = [f"a/{lines[3]}", "", f"..{lines[4]}", f"...{lines[4]}"]
    lines.insert(place, bad_line)
    list_file = tmp_path / "set_images_paths.txt"
    list_file.write_bytes(mark + line_end.join(lines).encode())
    return list_file


@pytest.fixture
def no_image_is_opened(monkeypatch):
    monkeypatch.setattr("datasets.images.read_file", None)


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("place", [1, 20, 53])
def test_lists_that_lead_out_of_their_folder_are_refused(tmp_path, monkeypatch, kind, place):
    monkeypatch.setattr("datasets.image_lists._BYTES_PER_BLOCK", 7 if place < 20 else 700)
    line_end, mark = ("\n", b"") if place < 30 else ("\r\n", b"\xef\xbb\xbf")
    list_file = write_list(tmp_path, FAULTS[kind], place, line_end, mark)
    path = FAULTS[kind]
    reason = next(text for start, text in REASONS.items() if kind.startswith(start))
    for read in (list_images, lambda folder: load_index(folder, PARAMS, tmp_path / "cache")):
        with pytest.raises(ValueError) as raised:
            read(tmp_path / "set")
        message = str(raised.value)
        assert message.startswith(f"{list_file}, line {place + 1}: {path!r} ")
        assert reason in message
    assert not (tmp_path / "cache").exists()


def test_a_bad_first_line_is_refused(tmp_path):
    write_list(tmp_path, FAULTS["absolute"], 0)
    with pytest.raises(ValueError, match="line 1: '/home/me/.*is not relative"):
        list_images(tmp_path / "set")


def test_dots_in_names_are_read(tmp_path):
    write_list(tmp_path, "./a/.hidden/b...jpg", 1)
    assert len(list_images(tmp_path / "set")) == 53


def test_entry_points_refuse_such_lists_before_any_image_is_opened(
    tmp_path, refused, model_file, no_image_is_opened
):
    for role in ("database", "queries"):
        write_image(tmp_path / "eval" / role / name(1, 2))
    list_file = tmp_path / "eval" / "database_images_paths.txt"
    list_file.write_text(f"{name(1, 2)}\n../../etc/passwd\n")
    said = f"{list_file}, line 2: '../../etc/passwd' may lead out of the folder"
    folders = [f"--{role}_set_folder={tmp_path / 'eval'}" for role in ("val", "test")]
    assert said in refused(evaluation_command.main, [*UNTRAINED, folders[1]], 1)
    train_folder = f"--train_set_folder={tmp_path / 'eval' / 'database'}"
    assert said in refused(train.main, [*folders, train_folder, "--min_images_per_class=1"], 1)
    photos, database = str(tmp_path / "eval" / "queries"), tmp_path / "eval" / "database"
    localized = [photos, f"--database={database}", f"--resume={model_file}"]
    assert said in refused(localize.main, localized, 1)


def test_the_check_reports_such_a_list(tmp_path):
    list_file = write_list(tmp_path, FAULTS["upwards"], 7)
    with pytest.raises(ValueError, match="training or evaluation would fail"):
        check.main([str(tmp_path / "set"), "--num_workers=0"])
    paths, _, findings = check.check_files(tmp_path / "set")
    [fault] = [finding for finding in findings if finding.level == check.ERROR]
    reason = f"cannot be used: {list_file}, line 8: '../../etc/passwd' may lead"
    assert fault.text.startswith(reason)
    assert len(paths) == 1, "the folder itself is listed"


def test_an_index_with_such_a_line_is_not_used(tmp_path):
    for column in range(3):
        write_image(tmp_path / "train" / "aa" / name(1, 2, 3, pano_id=f"{column}"))
    index = load_index(tmp_path / "train", PARAMS, tmp_path / "cache")
    names = index.index_folder / "images_paths.txt"
    names.write_bytes(names.read_bytes().replace(b"aa/", b"../"))
    with pytest.raises(ValueError, match="is damaged .images_paths.txt is not as it was written"):
        ClassIndex(index.index_folder)
