"""Networks behind numbers, and the two scales."""

import pytest

from datasets.catalog import TEST_SETS, TRAIN_SETS
from methods import METHODS
from mini_city import PRESETS
from model.published import TRAINED_DIMS
from paper.comparison import list_methods
from paper.costs import count_trained_images
from paper.networks import CHOSEN, Released, trained
from paper.scales import DEMO, MINI, PAPER, SCALES
from parser import parse_train_arguments
from training.setup import read_settings


def test_flags_make_a_command_line_of_train():
    source = trained(dataset="sf_xl", fc_output_dim=0, use_amp16=True, dry_run=False, lr=None)
    expected = ["--seed=3", "--dataset=sf_xl", "--fc_output_dim=0", "--use_amp16"]
    assert source.argv(3) == expected
    assert source["fc_output_dim"] == 0


def test_options_of_aggregations_are_pairs_on_the_command_line():
    source = MINI.compared("netvlad", "pitts30k")
    place = source.argv(0).index("--aggregation_args")
    assert source.argv(0)[place + 1] == "clusters=5"
    assert source["aggregation_args"] == {"clusters": 5} and source["dataset"] == "mini_city"
    assert MINI.compared("gem", "msls")["aggregation_args"] == {"l2": "before_pool"}


def test_whitenings_of_a_training_are_one_training():
    source = PAPER.compared("netvlad", "pitts30k")
    other = source.changed(whitening="pca_whiten", whiten_dim=4096, kept_dims=64)
    assert (source.dim, other.dim) == (512, 64)
    assert other.training == source.training == source and other != source
    assert str(other) == "netvlad VGG16 64-D pitts30k pca_whiten"
    crn = PAPER.compared("crn", "msls")
    assert crn.origin == crn.start.training == PAPER.compared("netvlad", "msls")


def test_a_changed_training_is_another_one_with_a_folder_of_its_own():
    source = PAPER.cosplace("ResNet18", 512)
    other = PAPER.cosplace("ResNet18", 512, batch_size=16)
    assert other["batch_size"] == 16 and other != source
    assert other.slug(0) != source.slug(0) != source.slug(1)
    assert PAPER.cosplace("ResNet18", 512, batch_size=None) == source


def test_folders_are_called_after_what_is_trained():
    slug = PAPER.cosplace("VGG16", 512, M=15).slug(2)
    assert slug.startswith("VGG16_512-D_gem_M_15_seed2_")
    assert Released("landmark:GLD:ResNet50").slug(0) == "landmark_GLD_ResNet50"


def test_the_chosen_hyper_parameters_are_the_defaults_of_train():
    flags = vars(parse_train_arguments([]))
    assert {name: flags[name] for name in CHOSEN} == CHOSEN


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)
def test_every_training_of_a_scale_is_one_that_train_takes(scale):
    for backbone, dims in scale.dims.items():
        for dim in dims:
            source = scale.cosplace(backbone, dim)
            flags = vars(parse_train_arguments(source.argv(0)))
            assert all(flags[name] == value for name, value in source.flags)
            assert source["dataset"] in TRAIN_SETS
    for method in METHODS.keys() - {"cosplace", *scale.left_out}:
        read_settings(scale.compared(method, "msls").settings)  # raises if flags contradict


def test_the_papers_training_changes_no_default_but_names_what_depends_on_the_backbone():
    flags = dict(PAPER.cosplace("ResNet18", 512).flags)
    assert flags == {
        "dataset": "sf_xl",
        "backbone": "ResNet18",
        "fc_output_dim": 512,
        "aggregation": "gem",
        "image_size": 512,
    }


@pytest.mark.parametrize(
    ("changed", "dataset"),
    [
        ({"groups_num": 1}, "sf_xl"),
        ({"groups_num": 16}, "sf_xl_raw"),
        ({"M": 15}, "sf_xl_raw"),
        ({"alpha": 60}, "sf_xl_raw"),
        ({"L": 2}, "sf_xl"),
    ],
)
def test_other_classes_or_more_groups_need_all_images_of_sf_xl(changed, dataset):
    assert PAPER.cosplace("ResNet18", 512, **changed)["dataset"] == dataset


def test_data_sets_of_the_mini_scale_stand_for_the_papers_each_once():
    names = ["pitts250k", "pitts30k", "tokyo247", "msls_val", "st_lucia"]
    assert PAPER.datasets(names) == names
    assert MINI.datasets(names) == ["mini_city_test_v1", "mini_city_val", "mini_city_test_v2"]
    assert MINI.datasets(["sf_xl_test_v1", "pitts250k"]) == ["mini_city_test_v1"]
    assert set(MINI.stand_ins.values()) <= TEST_SETS.keys() and MINI.train_set in TRAIN_SETS
    assert not PAPER.mark and MINI.mark


def test_every_method_of_the_demo_sees_as_many_images():
    for row in list_methods(DEMO):
        assert count_trained_images(row.trained) == pytest.approx(3_840, rel=0.02)
        assert row.trained["epochs_num"] > 0 == row.start["epochs_num"]
        read_settings(row.trained.settings)
        clusters = (row.trained["aggregation_args"] or {}).get("clusters", 1)
        assert clusters * 1280 <= 16_384 and row.trained["backbone"] == "EfficientNet_Lite0"


def test_sweeps_hold_the_chosen_values():
    for scale in (PAPER, MINI):
        assert scale.sweeps.keys() == CHOSEN.keys()
        assert all(CHOSEN[flag] in values for flag, values in scale.sweeps.items())


def test_dimensions_of_the_papers_networks_are_those_that_were_released():
    assert all(
        PAPER.dims[name] == TRAINED_DIMS[name] for name in PAPER.dims if name in TRAINED_DIMS
    )


def test_the_small_city_has_as_many_groups_as_the_mini_scale_trains():
    city = PRESETS["small"]
    assert city.image_size_px == MINI.flags["image_size"]
    assert city.train.visits[0] >= MINI.cosplace("ResNet18", 512)["min_images_per_class"]
