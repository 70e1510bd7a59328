import pytest

from tools.convert.photos import format_timestamp


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("  ", ""),
        ("2014", "2014"),
        ("201606", "201606"),
        ("2016-06", "201606"),
        ("20160601", "20160601"),
        ("20160601_12", "20160601_12"),
        ("20160601_1230", "20160601_1230"),
        ("20160601_123045", "20160601_123045"),
        ("20160601123045", "20160601_123045"),
        ("2016-06-01", "20160601"),
        ("2016/06/01", "20160601"),
        ("2016-06-01T12:30", "20160601_1230"),
        ("2016-06-01T12:30:45Z", "20160601_123045"),
        ("2016-06-01 12:30:45.678+02:00", "20160601_123045"),
        ("2016-06-01T12:30:45-0700", "20160601_123045"),
        ("2016:06:01 12:30:45", "20160601_123045"),
        (" 2024-02-29 ", "20240229"),
    ],
)
def test_times_are_written_as_sf_xl_does(text, expected):
    assert format_timestamp(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2016-13-01", "'2016-13-01' is not a time: month must be in 1..12"),
        ("2023-02-29", "is not a time: day"),
        ("2016-06-01T25:00", "is not a time: hour"),
        ("0000:00:00 00:00:00", "is not a time: year"),
        ("1525358823045", "is not a time as in 20160601"),
        ("01.06.2016", "is not a time as in"),
        ("yesterday", "is not a time as in"),
        ("2016-06-01T12:30:45 and more", "is not a time as in"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        format_timestamp(text)
