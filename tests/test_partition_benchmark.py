import time

import numpy as np
import pytest

from benchmarks import listing, partition, plain_partition
from benchmarks.common import measure
from benchmarks.make_names import write_names
from datasets.class_index import load_index


def hold(num_mb):
    values = np.ones(num_mb << 17)
    time.sleep(0.3)  # long enough to be seen on a busy machine
    return float(values[-1])


def fail():
    raise ValueError("as it should")


def test_the_peak_of_a_task_is_measured_from_outside():
    cost = measure(hold, 200)
    assert 195 < cost.peak_mb < 260 and cost.result == 1
    assert cost.seconds > 0 and cost.cpu_seconds > 0
    with pytest.raises(RuntimeError, match="fail failed"):
        measure(fail)


def test_both_ways_give_the_same_and_a_difference_is_noticed(tmp_path):
    list_file = write_names(tmp_path / "train", 30_000)
    index = load_index(tmp_path / "train", partition.PARAMS, tmp_path / "cache")
    plain_partition.build(list_file, partition.PARAMS, tmp_path / "loop.torch")
    num_same = partition.count_same(index.index_folder, tmp_path / "loop.torch")
    assert num_same == len(index.image_offsets) > 20_000
    lines = list_file.read_text().splitlines()
    list_file = tmp_path / "other_images_paths.txt"
    list_file.write_text("\n".join(lines[::-1]))
    plain_partition.build(list_file, partition.PARAMS, tmp_path / "other.torch")
    with pytest.raises(AssertionError):
        partition.count_same(index.index_folder, tmp_path / "other.torch")


def test_both_ways_agree_on_odd_names(tmp_path):
    partition.compare_odd_names(tmp_path / "odd")


def test_all_ways_to_list_give_the_same(tmp_path):
    assert listing.make_tree(tmp_path / "train", 600) > 30
    assert listing.list_by_glob(tmp_path / "train") == 600
    listing.check_same(tmp_path / "train")
    assert not (tmp_path / "train_images_paths.txt").exists()
