"""Figure 6."""

import csv

import pytest
from drawn_figures import assert_all_is_readable, keep_figures
from paper_studies import KnownNumbers, make_study

from paper.dimensions import curve_sources, dimension_needs, draw_dimensions, whitened_sources
from paper.networks import Released
from paper.scales import MINI, PAPER


def test_transformers_have_one_length_of_their_own():
    assert list(curve_sources(PAPER, "ViT_B16")) == [768]
    assert list(curve_sources(PAPER, "CCT14_384")) == [384]
    assert curve_sources(PAPER, "CCT14_384")[384]["image_size"] == 384
    assert list(curve_sources(PAPER, "VGG16")) == [64, 128, 256, 512]


@pytest.mark.parametrize("method", ["netvlad", "sfrs"])
def test_a_method_is_trained_once_and_cut_by_whitenings(method):
    for scale in (PAPER, MINI):
        sources = whitened_sources(scale, method, "")
        row = scale.compared(method, "pitts30k")
        assert sources[row.dim] == row  # that of Tables 2 and 3
        assert {source.training for source in sources.values()} == {row.training}
        assert [source.dim for source in sources.values()] == list(scale.vlad_dims)


def test_needs_are_all_networks_on_all_sets():
    needs = dimension_needs(make_study())
    assert len(needs) == 38 and {len(need.datasets) for need in needs} == {7}
    needs = dimension_needs(make_study(only="vgg", use_released=True))
    assert [need.source for need in needs[:4]] == [
        Released(f"cosplace:VGG16:{dim}") for dim in (64, 128, 256, 512)
    ]


def test_curves_are_the_recalls_of_their_own_data_set(tmp_path, monkeypatch):
    figures, numbers = keep_figures(monkeypatch), KnownNumbers()
    for number, name in enumerate(["mini_city_test_v1", "mini_city_val"]):
        for dim, source in curve_sources(MINI, "ResNet18").items():
            if dim != 128:
                recalls = {"R@1": 20.0 + 10 * number + dim / 100}
                numbers.test[source, 0, name] = recalls
    files = draw_dimensions(make_study(numbers, scale=MINI), tmp_path)
    assert {file.name for file in files} == {"fig6.pdf", "fig6.png", "fig6.csv"}
    assert_all_is_readable(figures["fig6"])
    legend = [text.get_text() for text in figures["fig6"].axes[3].get_legend().get_texts()]
    assert legend == ["ResNet-18"]
    panels = {panel.get_title(): panel for panel in figures["fig6"].axes}
    for name, low in (("mini_city_test_v1", 20.0), ("mini_city_val", 30.0)):
        lines = {c.get_label(): c.lines[0] for c in panels[name].containers}
        curve = lines["ResNet-18"]
        assert curve.get_xdata().tolist() == [32, 512]
        assert curve.get_ydata().tolist() == [low + 0.32, low + 5.12]
        assert len(lines["VGG-16"].get_xdata()) == 0
    rows = list(csv.DictReader((tmp_path / "fig6.csv").read_text().splitlines()))
    missing = [
        row for row in rows if row["descriptor_dim"] == "128" and row["curve"] == "ResNet-18"
    ]
    assert {row["missing"] for row in missing} == {"not run"} and len(missing) == 3
    [row] = [r for r in rows if (r["dataset"], r["mean"]) == ("mini_city_val", "35.12")]
    assert (row["curve"], row["descriptor_dim"], row["num_seeds"]) == ("ResNet-18", "512", "1")
