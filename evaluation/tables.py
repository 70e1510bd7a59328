"""Results of evaluations as text: one line with the whole protocol, or a table of several sets."""

import csv
import io
from collections.abc import Sequence
from typing import Any


def format_result(result: dict[str, Any]) -> str:
    """Return recalls and protocol as one line, with model, code and seed where they are known."""
    protocol = [
        f"{result['num_queries']:,} queries{_format_misses(result)}",
        f"{result['num_database']:,} database images",
        result["positives"] or "no labels",
        f"images {result['orientation']}, {_format_resize(result)} "
        f"({_format_sizes(result['image_sizes'])})",
        f"{result['descriptor_dim']}-D",
        _format_search(result),
    ]
    if "code_version" in result:
        protocol += [_format_model(result), f"code {result['code_version']}"]
        protocol.append(f"seed {result['seed']}")
    recalls = ", ".join(f"{name}: {recall:.1f}" for name, recall in result["recalls"].items())
    name = f"{result['dataset']} ({result['protocol']})"
    return f"{name}: {recalls or 'no recalls'} | {', '.join(protocol)}"


def format_table(results: Sequence[dict[str, Any]], form: str) -> str:
    """Return one row per test set: counts and recalls.

    Args:
        results: Of evaluations by one protocol.
        form: "text" for the terminal, "markdown" or "csv".
    """
    names = list(dict.fromkeys(name for result in results for name in result["recalls"]))
    header = ["data set", "protocol", "queries", "database", *names]
    rows = [
        [
            result["dataset"],
            result["protocol"],
            *_format_counts(result, form),
            *(_format_recall(result["recalls"].get(name)) for name in names),
        ]
        for result in results
    ]
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue()
    if form == "markdown":
        rule = ["---", "---", *("---:" for _ in header[2:])]
        return "".join(f"| {' | '.join(row)} |\n" for row in [header, rule, *rows])
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows]
    )


def _format_counts(result: dict[str, Any], form: str) -> list[str]:
    counts = (result["num_queries"], result["num_database"])
    return [str(count) if form == "csv" else f"{count:,}" for count in counts]


def _format_recall(recall: float | None) -> str:
    return "" if recall is None else f"{recall:.1f}"


def _format_misses(result: dict[str, Any]) -> str:
    unreadable = result["num_unreadable"]
    misses = []
    if result["num_queries_without_positives"] is not None:
        misses.append(
            f"{result['num_queries_without_positives']:,} without a positive, counted as misses"
        )
    if any(unreadable.values()):
        misses.append(
            f"{unreadable['queries']:,} unreadable, counted as misses, and "
            f"{unreadable['database']:,} unreadable database images"
        )
    return f" ({'; '.join(misses)})" if misses else ""


def _format_resize(result: dict[str, Any]) -> str:
    resize = "not resized" if result["resize"] == "none" else f"resized to {result['resize']}"
    if result["test_method"] != "as the database":
        resize += f", queries by {result['test_method']}"
    return resize


def _format_sizes(image_sizes: dict[str, dict[str, int]]) -> str:
    def text(sizes: dict[str, int]) -> str:
        names = list(sizes)
        return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} other sizes"

    return "; ".join(f"{role} {text(sizes)}" for role, sizes in image_sizes.items())


def _format_search(result: dict[str, Any]) -> str:
    if result["search_agreement"] is None:
        return f"search: {result['search']}"
    return f"search: {result['search']}, {result['search_agreement']:.1f}% as exact"


def _format_model(result: dict[str, Any]) -> str:
    weights = f" (SHA-256 {result['model_sha256'][:12]})" if result["model_sha256"] else ""
    return f"{result['model']}{weights}"
