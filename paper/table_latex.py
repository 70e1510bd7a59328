"""A table of measured against published numbers as LaTeX that compiles as it is."""

import itertools
import re

from paper.compared import Cell, ComparedTable

_WIDTH = 175  # characters of \footnotesize on landscape A4
_PREAMBLE = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,landscape,margin=12mm]{geometry}
\usepackage{booktabs}
\setlength{\parindent}{0pt}
\setlength{\parskip}{4pt}
\begin{document}
\footnotesize"""
_ESCAPES = {
    "\0": "{}",
    "\\": r"\textbackslash{}",
    **{mark: rf"\{mark}" for mark in "&%$#_{}"},
    **{mark: f"{{{mark}}}" for mark in "[]*"},  # after a line break they would be its options
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "''",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≈": r"$\approx$",
    "°": r"$^\circ$",
    "†": r"$\dagger$",
    "α": r"$\alpha$",
    "Δ": r"$\Delta$",
    "–": "--",
    "’": "'",
}


def format_latex(table: ComparedTable) -> str:
    """Return a document with one tabular per block of columns; flagged cells are bold."""
    parts = [_PREAMBLE, rf"\textbf{{{escape(table.title)}}}"]
    for columns in table.blocks(_WIDTH):
        parts.append((_format_mark(table) + _format_block(table, columns)).strip())
    notes = [f"[{number}] {note}" for number, note in enumerate(table.notes(), 1)]
    notes = [*table.legend("Bold"), *notes, *table.all_caveats()]
    return "\n\n".join([*parts, *map(escape, notes), r"\end{document}"]) + "\n"


def escape(text: str) -> str:
    """Return text as LaTeX prints it: marks mean nothing, other scripts become code points."""
    text = re.sub(r"-(?=-)", "-\0", " ".join(text.split()))  # "--" would become a dash
    return "".join(map(_escape_character, text))


def _escape_character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    accented = "À" <= character <= "ÿ" and character.isalpha() and character not in "ÐðÞþ"
    return character if character.isascii() or accented else f"U+{ord(character):04X}"


def _format_mark(table: ComparedTable) -> str:
    return rf"\textbf{{{escape(table.mark)}}}\\" + "\n" if table.mark else ""


def _format_block(table: ComparedTable, columns: range) -> str:
    """Return the labels and some columns as a tabular, data sets above their columns."""
    num_labels = len(table.row_headers)
    lines = [
        rf"\begin{{tabular}}{{@{{}}{'l' * num_labels}{'r' * len(columns)}@{{}}}}",
        r"\toprule",
        *_format_header(table, columns),
        r"\midrule",
    ]
    for row in table.rows:
        labels = map(escape, table.labels(row))
        cells = (_format_cell(row.cells[index]) for index in columns)
        lines.append(_format_row([*labels, *cells]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _format_header(table: ComparedTable, columns: range) -> list[str]:
    titles, rules = [""] * len(table.row_headers), []
    first = len(titles) + 1
    for title, group in itertools.groupby(table.columns[index].title for index in columns):
        last = first + len(list(group)) - 1
        titles.append(rf"\multicolumn{{{last - first + 1}}}{{c}}{{{escape(title)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{last}}}")
        first = last + 1
    metrics = [table.columns[index].metric for index in columns]
    names = [escape(name) for name in (*table.row_headers, *metrics)]
    return [_format_row(titles), " ".join(rules), _format_row(names)]


def _format_row(texts: list[str]) -> str:
    return " & ".join(texts) + r" \\"


def _format_cell(cell: Cell) -> str:
    text = re.sub(r", -(?=\d)", ", $-$", escape(cell.describe()))
    return rf"\textbf{{{text}}}" if cell.flagged else text
