import numpy as np
import pytest

from benchmarks.odd_names import make_odd_lines
from datasets import name_source
from datasets.image_paths import split_names
from datasets.name_source import NameSource


@pytest.mark.parametrize("block", [700, 4096, 1 << 23])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\n\r\n"])
@pytest.mark.parametrize("last", [b"", b"\n", b"\n\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_blocks_hold_the_lines_of_the_whole(tmp_path, monkeypatch, block, line_end, last, mark):
    monkeypatch.setattr(name_source, "_BYTES_PER_BLOCK", block)
    lines = [line.encode() for line in make_odd_lines(200)]
    text = mark + line_end.join(lines) + last
    (tmp_path / "list.txt").write_bytes(text)
    source = NameSource(tmp_path, tmp_path / "list.txt")
    found, places = [], []
    for start, paths in source.blocks():
        found += paths.lines()
        places += (paths.starts + start).tolist()
    assert found == lines == list(split_names(tmp_path, np.frombuffer(text, np.uint8)).lines())
    assert [text[place : place + len(line)] for place, line in zip(places, lines, strict=True)] == (
        lines
    )
    assert b"".join(part.tobytes() for _, part in source.texts()) == text[len(mark) :]
    assert list(source.first_block().lines())[0] == lines[0]


def test_a_walked_folder_is_read_in_blocks_too(tmp_path, monkeypatch):
    monkeypatch.setattr(name_source, "_BYTES_PER_BLOCK", 50)
    lines = [f"{number}/@1@{number}@.jpg".encode() for number in range(30)]
    source = NameSource(tmp_path, None, b"\n".join(lines) + b"\n")
    blocks = list(source.blocks())
    assert len(blocks) > 5 and [line for _, paths in blocks for line in paths.lines()] == lines


def test_a_file_without_lines_is_no_list(tmp_path, monkeypatch):
    monkeypatch.setattr(name_source, "_BYTES_PER_BLOCK", 1000)
    (tmp_path / "list.txt").write_bytes(b"a.jpg\n" + b"x" * 2000)
    with pytest.raises(ValueError, match="has a line of more than 1,000 bytes"):
        list(NameSource(tmp_path, tmp_path / "list.txt").blocks())


def test_no_names(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\n\r\n")
    source = NameSource(tmp_path, tmp_path / "list.txt")
    assert len(source.first_block()) == 0 and source.first_block().list_file == source.list_file
