import datetime

import pytest

from tools.convert.times import find_day_first, format_timestamp, read_time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("  ", ""),
        ("2014", "2014"),
        ("201606", "201606"),
        ("2016-06", "201606"),
        ("20160601", "20160601"),
        ("20160601.0", "20160601"),
        ("20160601_12", "20160601_12"),
        ("2016060112", "20160601_12"),
        ("20160601_1230", "20160601_1230"),
        ("20160601_123045", "20160601_123045"),
        ("20160601123045", "20160601_123045"),
        ("2016-06-01", "20160601"),
        ("2016/06/01", "20160601"),
        ("2016/6/1 9:05", "20160601_0905"),
        ("2016-06-01T12:30", "20160601_1230"),
        ("2016-06-01T12:30:45Z", "20160601_123045"),
        ("2016-06-01T12:30+02", "20160601_1230"),
        ("2016-06-01 12:30:45.678+02:00", "20160601_123045"),
        ("2016-06-01T12:30:45-0700", "20160601_123045"),
        ("2016:06:01 12:30:45", "20160601_123045"),
        ("2023:05:01 12:34:56+02:00", "20230501_123456"),
        ("2018_05_03_14_47_03_045", "20180503_144703"),
        (" 2024-02-29 ", "20240229"),
        ("01.06.2016", "20160601"),
        ("1.6.2016 9:05", "20160601_0905"),
        ("13/06/2016", "20160613"),
        ("6/13/2016 2:30:00 PM", "20160613_143000"),
        ("12/31/2016, 12:05 am", "20161231_0005"),
        ("05-05-2016", "20160505"),
    ],
)
def test_times_are_written_as_sf_xl_does(text, expected):
    assert format_timestamp(text) == expected


@pytest.mark.parametrize(
    "text",
    ["1525358823", "1525358823045", "1525358823045.0", "1525358823045123", "1525358823.5"]
    + ["1525358823045000000", "946684800", "946684800000", "1512103123", "1999999999"],
)
def test_times_since_1970_are_those_of_utc(text):
    digits = text.removesuffix(".0")
    seconds = float(digits) / 10 ** ((len(digits.partition(".")[0]) - 9) // 3 * 3)
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=int(seconds))
    assert format_timestamp(text) == moment.strftime("%Y%m%d_%H%M%S")
    assert read_time(text).epoch_s() == pytest.approx(seconds, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2016:06:01 12:30:45.25", 0.25),
        ("2016-06-01T12:30:45Z", 0),
        ("2016-06-01T14:30:45.5+02:00", 0.5),
        ("2016-06-01T05:00:45-0730", 0),
        ("2016-06-01T12", -30 * 60 - 45),
        ("2016-06", -45045),
    ],
)
def test_moments_are_seconds_since_1970(text, seconds):
    noon = datetime.datetime(2016, 6, 1, 12, 30, 45, tzinfo=datetime.timezone.utc).timestamp()
    assert read_time(text).epoch_s() == pytest.approx(noon + seconds, abs=1e-6)
    assert (read_time(text).zone is None) == (seconds in (0.25, -45045, -30 * 60 - 45))


def test_other_dates_of_a_column_tell_which_number_is_the_day():
    assert find_day_first(["03/04/2016", "", "6/13/2016 12:30", "x"]) is False
    assert find_day_first(["03/04/2016", "13/06/2016"]) is True
    assert find_day_first(["6/13/2016", "13/06/2016"]) is None
    assert find_day_first(["03/04/2016", "13.06.2016", "2016/13/13"]) is None
    assert format_timestamp("03/04/2016", True) == "20160403"
    assert format_timestamp("03/04/2016", False) == "20160304"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2016-13-01", "'2016-13-01' is not a time: month must be in 1..12"),
        ("2023-02-29", "is not a time: day"),
        ("2016-06-01T25:00", "is not a time: hour"),
        ("2016-06-01 13:00 PM", "is not a time: hour must be in 1..12 before PM"),
        ("0000:00:00 00:00:00", "is not a time: year"),
        ("03/04/2016", "is not a time: its day may be the first or the second number"),
        ("2016-06-01T12:00+99:00", "is not a time"),
        ("12345678", "is not a time: month"),
        ("15253588230", "is not a time as in 20160601"),
        ("1.52536E+12", "is not a time as in 20160601"),
        ("yesterday", "is not a time as in"),
        ("2016-06-01T12:30:45 and more", "is not a time as in"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        format_timestamp(text)
