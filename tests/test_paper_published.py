import shutil

import pytest

from paper.published import NUMBERS, TABLES, load_elsewhere, load_scalars, load_table


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(NUMBERS, tmp_path / "numbers")


def load_all(folder):
    for name in TABLES:
        load_table(name, folder)
    load_elsewhere(folder)
    load_scalars(folder)


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("table2.csv", "75.3±0.2", "75,3±0.2", "line 2: 14 cells instead of the header's 13"),
        ("table2.csv", "75.3±0.2", "7x.3", "line 2: pitts250k R@1 is '7x.3', not a recall"),
        ("table2.csv", "75.3±0.2", "75.3±", "line 2: pitts250k R@1 is '75.3±', not a recall"),
        ("table2.csv", "75.3±0.2", "", "line 2: pitts250k R@1 is '', not a recall"),
        ("table3.csv", "65.1", "651", "line 11: sf_xl_test_v1 R@1 is '651', not a recall"),
        ("table3.csv", "CRN,512", "CRN,5l2", "line 8: dim is '5l2', not a whole number"),
        ("table1.csv", "\nMax", "\nAverage", "line 3: Average is there twice"),
        ("table4.csv", "pitts30k R@1", "pitts30k R@2", "line 1: 'pitts30k R@2' is neither"),
        ("table4.csv", "msls_val R@1", "msls_test R@1", "line 1: 'msls_test R@1' is neither"),
        ("table4.csv", "train_set", "trainset", "line 1: 'trainset' is neither"),
        ("table4.csv", "pitts30k", "pitts250k", "line 1: a header of different names"),
        ("elsewhere.csv", "sf_xl_small_test", "small", "line 11: small is no data set"),
        ("elsewhere.csv", ",R@20", ",R@25", "line 1: a header of different names .source, "),
        ("scalars.csv", "alpha,30,degrees,no", "alpha,30,degrees,maybe", "line 3: alpha is there"),
        ("scalars.csv", "\nalpha,", "\nM,", "line 3: M is there twice"),
        ("sources.json", '"train_set": ["SF-XL*"]', '"trainset": []', "unknown fields"),
        ("sources.json", '"table1"', '"table5"', "line 1: table1 with title, source, every_row"),
        ("sources.json", "},", "}", "line 6: Expecting ',' delimiter"),
    ],
)
def test_damage_is_told_by_file_and_line(folder, name, old, new, problem):
    load_all(folder)
    path = folder / name
    content = path.read_text(encoding="utf-8")
    assert old in content
    path.write_text(content.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=problem) as error:
        load_all(folder)
    assert str(error.value).startswith(str(path))
    assert str(error.value).endswith("; restore the file from the repository")


@pytest.mark.parametrize("name", ["table3.csv", "elsewhere.csv", "scalars.csv", "sources.json"])
def test_files_that_are_missing_empty_or_no_text(folder, name):
    path = folder / name
    path.write_bytes(b"method,\xff\n")
    with pytest.raises(ValueError, match=f"{name} is not UTF-8 .*restore it"):
        load_all(folder)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{name}, line 1: .*restore the file"):
        load_all(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing; restore it"):
        load_all(folder)


def test_there_is_no_fifth_table():
    with pytest.raises(ValueError, match="tables are table1, .*; there is no table5"):
        load_table("table5")
