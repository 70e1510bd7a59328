"""The page that the paper's numbers were taken from, read on its own by the tests."""

import csv
import io
import re

import pytest
from conftest import REPOSITORY

PAGE = REPOSITORY.parent / "shared" / "spec" / "paper_tables.md"
DATASETS = {  # as the page writes them
    "pitts250k": "pitts250k",
    "p250k": "pitts250k",
    "pitts30k": "pitts30k",
    "p30k": "pitts30k",
    "tokyo247": "tokyo247",
    "tokyo 24/7": "tokyo247",
    "tokyo": "tokyo247",
    "msls": "msls_val",
    "msls740": "msls_val_740",
    "stlucia": "st_lucia",
    "st lucia": "st_lucia",
    "sfxl_v1": "sf_xl_test_v1",
    "v1": "sf_xl_test_v1",
    "sf-xl v1 (2,805,815 db)": "sf_xl_test_v1",
    "sfxl_v2": "sf_xl_test_v2",
    "v2": "sf_xl_test_v2",
    "sf-xl small (1,000 q, 27,191 db)": "sf_xl_small_test",
    "sf_landmark": "san_francisco",
}


def read_page():
    """Return the page; skip the test where it is absent."""
    if not PAGE.is_file():
        pytest.skip(f"the page that the numbers were taken from is not at {PAGE}")
    return PAGE.read_text(encoding="utf-8")


def section(page, title):
    return re.split(r"\n#+ |\n---\n", page.partition(title)[2])[0]


def markdown_rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[:1] + cells[2:]


def csv_blocks(text):
    blocks = re.findall(r"```csv\n(.*?)```", text, re.DOTALL)
    return [list(csv.reader(io.StringIO(block))) for block in blocks]


def column_of(header):
    """Return data set and metric of "P250k R@1", "pitts250k_r1" or "Pitts250k", or None."""
    found = re.fullmatch(r"(.+?)(?:[ _]R@?(\d+))?", header, re.IGNORECASE)
    dataset = DATASETS.get(found[1].lower())
    return dataset and (dataset, f"R@{found[2] or 1}")
