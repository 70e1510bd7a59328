"""Runs for the tests of comparisons, and readers of what those write."""

import csv
import json
import re
from html.parser import HTMLParser

from evaluation.results import PREDICTIONS_COLUMNS
from reports.compare import main

NUM_RANKS = 3
RECALLS = {"R@1": 1, "R@3": 3, "R@20": 20}  # more than the ranks that are kept


def make_run(folder, correct_ranks, data, name="{:03d}.jpg", labels=True, **result):
    """Write a run.

    `correct_ranks` is {index of a query: rank of its correct prediction, None for none, "unread"
    if it has no rows}; the top-1 prediction of the query is <number>_1.jpg and so on.
    """
    folder.mkdir(parents=True)
    text = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
    with open(folder / "predictions.csv", "w", **text) as file:
        writer = csv.writer(file)
        writer.writerow(PREDICTIONS_COLUMNS)
        for row, (number, right) in enumerate(correct_ranks.items()):
            for rank in range(1, NUM_RANKS + 1) if right != "unread" else ():
                correct = int(rank == right) if labels else ""
                query = data / "queries" / name.format(number)
                prediction = data / "database" / f"{number}_{rank}.jpg"
                writer.writerow((row, query, rank, prediction, 0.5, 12.25 * rank, correct))
    found = [right for right in correct_ranks.values() if isinstance(right, int)]
    recalls = {
        name: 100 * sum(right <= n for right in found) / len(correct_ranks)
        for name, n in RECALLS.items()
    }
    protocol = {"positives": "UTM distance of at most 25 m", "threshold_m": 25.0, "resize": "none"}
    folders = {f"{role}_folder": str(data / role) for role in ("queries", "database")}
    counts = {"num_queries": len(correct_ranks), "num_database": 500}
    result = {"dataset": "city", "recalls": recalls} | counts | protocol | folders | result
    (folder / "results.json").write_text(json.dumps(result))
    return str(folder)


def make_two_runs(folder):
    """Return two runs of 40 queries; the second, in another order, wins 8 and loses 1 at rank 1."""
    before = {number: 1 if number < 12 else 2 if number < 20 else None for number in range(40)}
    after = before | dict.fromkeys(range(30, 38), 1) | {3: 3}
    after = dict(sorted(after.items(), reverse=True))
    return [
        make_run(folder / "before", before, folder / "data"),
        make_run(folder / "after", after, folder / "data"),
    ]


def compare(argv, caplog):
    """Return what is said, and the cells of the lines that begin with R@N."""
    caplog.clear()
    with caplog.at_level("INFO"):
        main(argv)
    return caplog.text, read_cells(caplog.messages[0])


def read_cells(text):
    cells = (re.split(r"\s{2,}", line) for line in text.splitlines())
    return {row[0]: row[1:] for row in cells if row[0].startswith("R@")}


def read_csv(file):
    with open(file, newline="", encoding="utf-8", errors="surrogateescape") as text:
        return list(csv.DictReader(text))


class Page(HTMLParser):
    """The tags and the text of a page, checked to be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
