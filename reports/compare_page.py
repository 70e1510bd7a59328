"""A comparison of runs as one HTML page that needs no other file: tables, sentences, pictures."""

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np

from reports.compare_tables import (
    Table,
    count_recalls,
    count_tests,
    describe_comparison,
    describe_method,
    describe_run,
    name_comparison,
    printable,
    tabulate,
    tabulate_sets,
)
from reports.comparison import Bootstrap, Comparison, RunPair
from reports.pictures import (
    COLOURS,
    QUERY_COLOUR,
    encode_thumbnail,
    format_metres,
    name_image,
)
from reports.runs import Run

THUMBNAIL_PX = (380, 224)  # largest width and height; twice what is shown, for sharp screens
_JPEG_QUALITY = 80
_STYLE = f"""
:root {{ --query: rgb{QUERY_COLOUR}; --correct: rgb{COLOURS["1"]}; --wrong: rgb{COLOURS["0"]}; }}
* {{ box-sizing: border-box; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1240px;
  padding: 0 1em; color: #222; }}
.wide {{ overflow-x: auto; margin: 1em 0; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .3em .9em; border-bottom: 1px solid #ddd; text-align: right;
  white-space: nowrap; }}
th {{ white-space: normal; min-width: 6em; }}
p, li, th, h1, h2, h3 {{ overflow-wrap: anywhere; }}
th:first-child, td:first-child {{ text-align: left; position: sticky; left: 0; background: #fff;
  min-width: 0; }}
.query {{ border-top: 1px solid #ddd; padding: .6em 0;
  display: grid; grid-template-columns: 200px 1fr 1fr; gap: .3em 1.2em; align-items: end; }}
.query > p {{ grid-column: 1 / -1; margin: 0; font-size: 12px; color: #666; }}
.query > p b {{ font-size: 14px; color: #222; }}
.run b {{ font-size: 12px; overflow-wrap: anywhere; }}
.tiles {{ display: flex; flex-wrap: wrap; gap: 6px; }}
figure {{ margin: 0; font-size: 12px; text-align: center; }}
figure img, figure span {{ border: 4px solid; height: 112px; max-width: 190px; }}
.run img {{ max-width: 149px; }}
figure img {{ object-fit: contain; display: block; margin: auto; }}
figure span {{ display: block; width: 130px; color: #666; }}
.query-image img, .query-image span {{ border-color: var(--query); }}
.correct img, .correct span {{ border-color: var(--correct); }}
.wrong img, .wrong span {{ border-color: var(--wrong); }}
.correct figcaption {{ color: var(--correct); }}
.wrong figcaption {{ color: var(--wrong); }}
@media (max-width: 760px) {{
  body {{ margin-top: 1em; }}
  h1 {{ font-size: 22px; }}
  th, td {{ padding: .3em .4em; min-width: 0; font-size: 13px; white-space: normal; }}
  .query {{ grid-template-columns: 1fr; }}
  .query-image {{ justify-self: start; }}
  .tiles {{ display: grid; grid-template-columns: repeat(3, 1fr); }}
  .run img, .run span {{ width: 100%; max-width: 100%; height: 96px; }}
}}
"""
# The browser itself refuses whatever is not on the page
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def make_page(
    comparisons: Sequence[Comparison], bootstrap: Bootstrap, num_pictures: int
) -> tuple[str, str]:
    """Write a comparison as a page.

    Args:
        comparisons: One per test set.
        bootstrap: Settings of the intervals.
        num_pictures: Queries shown of those won, and of those lost, for each pair of runs.

    Returns:
        The page, and a sentence on images that cannot be shown, empty if all can.
    """
    problems: list[str] = []
    title = _text(name_comparison(comparisons))
    parts = [f"<h1>{title}</h1>"]
    if len(comparisons) > 1:
        parts += ["<h2>All test sets</h2>", _html_table(tabulate_sets(comparisons))]
    for comparison in comparisons:
        header, *rows = tabulate(comparison)
        num_settings = len(rows) - count_recalls(comparison)
        parts += [
            f"<h2>{_text(comparison.name)}</h2>",
            _html_table([header, *rows[num_settings:]]),
        ]
        sentences = describe_comparison(comparison, count_tests(comparisons))
        parts += [f"<p>{_text(sentence)}</p>" for sentence in sentences]
        for pair in comparison.pairs:
            parts += _show_pair(pair, num_pictures, problems)
        settings = [row[: 1 + len(comparison.runs)] for row in (header, *rows[:num_settings])]
        runs = "".join(f"<li>{_text(describe_run(run))}</li>" for run in comparison.runs)
        parts += ["<h3>Protocol</h3>", _html_table(settings), f"<ul>{runs}</ul>"]
    parts += [f"<p>{_text(sentence)}</p>" for sentence in describe_method(comparisons, bootstrap)]
    gone = _count_gone(problems)
    if gone:
        parts.insert(1, f"<p><strong>{_text(gone)}</strong></p>")
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style>"
    )
    body = "\n".join(parts)
    page = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'
    return page, gone


def _count_gone(problems: Sequence[str]) -> str:
    different = list(dict.fromkeys(problems))  # an image of both runs is one image
    count = "1 image" if len(different) == 1 else f"{len(different)} images"
    return f"{count} cannot be shown, the first because: {different[0]}" if different else ""


def _text(text: str) -> str:
    return escape(printable(text))


def _html_table(table: Table) -> str:
    rows = ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in table[1:]]
    header = "".join(f"<th>{_text(cell)}</th>" for cell in table[0])
    body = "\n".join(f"<tr>{row}</tr>" for row in [header, *rows])
    return f'<div class="wide"><table>{body}</table></div>'


def _show_pair(pair: RunPair, num_pictures: int, problems: list[str]) -> Iterator[str]:
    """Yield the queries that are correct at rank 1 in only one of the two runs."""
    for queries, finder in ((pair.won, pair.run), (pair.lost, pair.baseline)):
        if not queries or not num_pictures:
            continue
        other = pair.baseline if finder is pair.run else pair.run
        shown = _spread(queries, num_pictures)
        heading = f"Top-1 correct in {finder.label}, not in {other.label}: {len(queries):,} queries"
        if len(shown) < len(queries):
            heading += f", {len(shown)} of them below"
        yield f"<h3>{_text(heading)}</h3>"
        for query in shown:
            yield _show_query(query, pair, problems)


def _spread(queries: Sequence[str], num_pictures: int) -> list[str]:
    """Choose evenly from first to last, for neighbours may show one place."""
    num_shown = min(num_pictures, len(queries))
    places = np.linspace(0, len(queries) - 1, num_shown).round().astype(int)
    return [queries[place] for place in places]


def _show_query(query: str, pair: RunPair, problems: list[str]) -> str:
    runs = (pair.baseline, pair.run)
    path = next(rows[0]["query"] for run in runs if (rows := run.predictions.rows.get(query)))
    tiles = _tile(path, "query-image", "query", problems)
    tiles += "".join(_show_predictions(run, query, problems) for run in runs)
    name = f"<b>{_text(name_image(query))}</b>"
    if name_image(query) != query:
        name += f" {_text(query)}"
    return f'<div class="query"><p>{name}</p>{tiles}</div>'


def _show_predictions(run: Run, query: str, problems: list[str]) -> str:
    tiles = []
    for row in run.predictions.rows.get(query, []):
        kind, mark = ("correct", "✓") if row["correct"] == "1" else ("wrong", "✗")
        caption = f"{mark} {format_metres(float(row['distance_m'] or 'nan'))}"
        tiles.append(_tile(row["prediction"], kind, caption, problems))
    without = "no predictions: the query could not be read, or the search found nothing for it"
    shown = "".join(tiles) or without
    return f'<div class="run"><b>{_text(run.label)}</b><div class="tiles">{shown}</div></div>'


def _tile(path: str, kind: str, caption: str, problems: list[str]) -> str:
    """Show an image in its frame; a missing one leaves the frame empty."""
    try:
        uri = encode_thumbnail(path, THUMBNAIL_PX, _JPEG_QUALITY)
        image = f'<img src="{uri}" alt="{_text(path)}" title="{_text(path)}">'
    except (OSError, ValueError) as error:
        problems.append(str(error))
        image = f'<span title="{_text(path)}">cannot be shown</span>'
    return f'<figure class="{kind}">{image}<figcaption>{_text(caption)}</figcaption></figure>'
