"""Check what a file of torch.save declares, before torch makes it.

There are two formats: zip archives, and what torch.save wrote until version 1.6: a row of pickles,
then the numbers.
"""

import io
import struct
import tarfile
import zipfile
from typing import BinaryIO

from model.digests import COMMENT_SIZE, END, END_SIGNATURE, has_digest
from model.pickles import MOST_BYTES, PickleCheck

_ZIP_START = b"PK\x03\x04"
_LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # a pickled number
_NUM_LEGACY_HEADS = 3  # that number, the version of the format, sizes of types in C
_MOST_DIRECTORY_BYTES = 16 << 20  # of 100,000 tensors and more
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_LOCAL_HEADER_BYTES = 30


def check_content(file: BinaryIO) -> None:
    """Check that torch.load(weights_only=True) will not make more than what is in a file.

    Any exception means that the file must not be loaded; those with a text for people are
    ValueErrors.

    Args:
        file: Open for reading. Where it stands afterwards is undefined.
    """
    file.seek(0)
    start = file.read(len(_LEGACY_START))
    if start.startswith(_ZIP_START):
        _check_zip(file)
    elif start == _LEGACY_START:
        _check_legacy(file)
    else:
        raise ValueError("it is damaged, or was not written by torch.save")


def _check_zip(file: BinaryIO) -> None:
    """Check an archive: its records, its pickle, and that storages are of the size of records."""
    _check_directory(file)
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(record.filename.endswith("/constants.pkl") for record in records):
            raise ValueError("it is a TorchScript program, not a file of weights")
        _check_records(records, file)
        sizes = {record.filename: record.file_size for record in records}
        folder = records[0].filename.partition("/")[0]
        name = f"{folder}/data.pkl"
        if name not in sizes:
            raise ValueError("it is a zip archive that torch.save did not write")
        if sizes[name] > MOST_BYTES:
            raise ValueError(f"its pickle has more than {MOST_BYTES:,} bytes")
        pickled = archive.read(name)
    check = PickleCheck(io.BytesIO(pickled))
    check.load()
    for key, storage in check.storages.items():
        if sizes.get(f"{folder}/data/{key}") != storage.num_bytes:
            raise ValueError("it has tensors of another size than it declares")


def _check_directory(file: BinaryIO) -> None:
    """Check that the list of records is where all readers look for it, and not gigantic.

    A reader may look for it from the end, through comments: two readers could see two archives.
    """
    comment_bytes = COMMENT_SIZE if has_digest(file) else 0
    end_place = file.seek(0, 2) - comment_bytes - END.size
    signature, disk, *_, num_bytes, start, length = END.unpack(_read(file, end_place, END.size))
    if (signature, disk, length) != (END_SIGNATURE, 0, comment_bytes):
        raise ValueError("it is cut short, or has a comment that torch.save does not write")
    locator_place = end_place - _LOCATOR_64.size
    word, _, place_64, _ = _LOCATOR_64.unpack(_read(file, locator_place, _LOCATOR_64.size))
    if word == b"PK\x06\x07":
        fields = _END_64.unpack(_read(file, place_64, _END_64.size))
        if fields[0] != b"PK\x06\x06" or place_64 + _END_64.size != locator_place:
            raise ValueError("the end of its list of records is damaged")
        num_bytes, start, end_place = *fields[-2:], place_64
    if start + num_bytes != end_place or num_bytes > _MOST_DIRECTORY_BYTES:
        raise ValueError("its list of records is damaged, or gigantic")


def _check_records(records: list[zipfile.ZipInfo], file: BinaryIO) -> None:
    """Check that no record is packed and none shares bytes with another one."""
    if not records or len({record.filename.lower() for record in records}) < len(records):
        raise ValueError("it has no records, or several of one name")
    folder = records[0].filename.partition("/")[0] + "/"
    if not all(record.filename.startswith(folder) for record in records):
        raise ValueError("it is a zip archive that torch.save did not write")
    free = 0
    for record in sorted(records, key=lambda record: record.header_offset):
        if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
            raise ValueError("its records are compressed or encrypted, which torch.save never does")
        if record.file_size != record.compress_size or record.header_offset < free:
            raise ValueError("its records overlap")
        free = record.header_offset + _LOCAL_HEADER_BYTES + record.file_size
    if free > file.seek(0, 2):
        raise ValueError("its records are larger than the file")


def _check_legacy(file: BinaryIO) -> None:
    """Check a row of pickles and that the numbers of all storages follow it."""
    file.seek(0)
    if tarfile.is_tarfile(file):  # torch looks for an older format first
        raise ValueError("it is in the oldest format of torch.save, which is not safe to read")
    file.seek(0)
    head = io.BytesIO(file.read(MOST_BYTES))
    for _ in range(_NUM_LEGACY_HEADS):
        PickleCheck(head).load()
    check = PickleCheck(head)
    check.load()
    keys = PickleCheck(head).load()
    if type(keys) is not list or sorted(keys) != sorted(check.storages):
        raise ValueError("its list of tensors is damaged")
    num_bytes = sum(8 + storage.num_bytes for storage in check.storages.values())
    if head.tell() + num_bytes > file.seek(0, 2):
        raise ValueError("it is cut short, or declares more than it has")


def _read(file: BinaryIO, place: int, num_bytes: int) -> bytes:
    file.seek(max(place, 0))
    return file.read(num_bytes)
