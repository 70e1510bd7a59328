import re
import shutil
import subprocess

import pytest
from compared_tables import MARK, NAMES, make_published, make_table, perturbed

from paper.compared import Cell, Row
from paper.published import TABLES, Column, Number
from paper.table_text import render, write_table


def check_latex(text, num_columns=None):
    """Check what pdflatex would refuse: braces, environments, the cells of each row."""
    bare = re.sub(r"\\[\\&%$#_{}]", lambda found: "\\\\" if found[0] == "\\\\" else "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert all(character.isascii() or character == "é" for character in bare)
    assert not re.search(r"[%#^~]", bare)
    assert (
        re.findall(r"\\begin{(\w+)}", bare).count("document") == bare.count(r"\end{document}") == 1
    )
    for tabular in re.findall(r"\\begin{tabular}.*?\\end{tabular}", bare, re.DOTALL):
        (layout,) = re.findall(r"\\begin{tabular}{@{}(l+r+)@{}}", tabular)
        assert num_columns in (None, len(layout))
        for line in re.findall(r"(.+?) \\\\", tabular):
            spans = [int(span) - 1 for span in re.findall(r"\\multicolumn{(\d+)}", line)]
            assert line.count("&") + 1 + sum(spans) == len(layout), line
        for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
            assert tabular.count(rule) == 1


def test_any_name_is_well_formed():
    columns = (Column("my_set", "R@1", "A&B_|c%"), Column("other", "R@5", "x,y"))
    rows = [Row((name, "512"), (Cell((50.0,)), Cell(missing="50% & more_|"))) for name in NAMES]
    table = make_table(*rows, columns=columns, headers=("model|kind", "dim"), mark="5% of {it}")
    check_latex(render(table, "latex"), num_columns=4)


def test_latex_escapes_by_hand():
    row = Row((NAMES[0],), (Cell((50.0,)), Cell()))
    assert r"a$|$b \& 50\%\_c, \$x\$ \#1 & 50.0 & - \\" in render(make_table(row), "latex")
    row = Row((NAMES[1],), (Cell((50.0,)), Cell()))
    expected = (
        r"\{d\}\textbackslash{}e \textasciitilde{}f\textasciicircum{} $<$g$>$ {*}h{*} {[}i{]}"
    )
    assert expected in render(make_table(row), "latex")
    row = Row((NAMES[2],), (Cell((50.0,)), Cell()))
    assert r"José's ''4096-D'' -{}-pca $\dagger$" in render(make_table(row), "latex")
    row = Row((NAMES[3],), (Cell((50.0,)), Cell()))
    assert r"U+4E2D $\pm$2" in render(make_table(row), "latex")


@pytest.mark.parametrize("name", TABLES)
def test_latex_of_the_papers_tables_is_well_formed(name):
    check_latex(render(make_published(name, perturbed), "latex"))
    check_latex(render(make_published(name, lambda number: Cell((50.0,)), MARK), "latex"))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    names = [Row((name,), (Cell((50.0,), Number(60.0)), Cell())) for name in NAMES]
    tables = {name: make_published(name, perturbed) for name in TABLES}
    for stem, table in (tables | {"names": make_table(*names, mark=MARK)}).items():
        write_table(table, tmp_path, stem)
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{stem}.tex"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
        assert result.returncode == 0 and (tmp_path / f"{stem}.pdf").exists(), result.stdout
        assert b"Overfull" not in result.stdout
