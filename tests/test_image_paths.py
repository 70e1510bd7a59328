import os

import pytest
from conftest import name, write_image

from datasets.image_paths import ImageName, format_image_name, list_images, parse_image_name

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


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_list_may_give_names_to_files_that_have_others(tmp_path, line_end):
    photo = write_image(tmp_path / "photos" / "me@home@3.jpg")
    (tmp_path / "train").mkdir()
    lines = [f"{photo}\t{SF_XL}", f"37.70/{SF_XL}", f"{photo}\t{name(1, 2)}"]
    (tmp_path / "train_images_paths.txt").write_bytes((line_end.join(lines) + line_end).encode())
    paths = list_images(tmp_path / "train")
    assert os.path.samefile(paths[0], photo) and paths[2] == str(photo)
    assert paths[1] == str(tmp_path / "train" / "37.70" / SF_XL)
    assert [paths.name(number) for number in range(3)] == [SF_XL, f"37.70/{SF_XL}", name(1, 2)]
    photo.unlink()
    with pytest.raises(FileNotFoundError, match="lists .*me@home@3.jpg, which does not exist"):
        list_images(tmp_path / "train")


@pytest.mark.parametrize("separator", ["\n", "\t"])
def test_files_whose_names_would_break_a_list_are_refused(tmp_path, separator):
    write_image(tmp_path / "set" / f"a{separator}b.jpg")
    with pytest.raises(ValueError, match="1 image names contain a newline or a tab"):
        list_images(tmp_path / "set")


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
