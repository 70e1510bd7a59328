"""Times of photos as cameras, exiftool, Mapillary, databases and spreadsheets write them."""

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass

_ZONE = r"\s*(?P<half>[AP]M)?\s*(?P<zone>Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?"
_MINUTES = r"(?:[:._]?(?P<minute>\d\d)(?:[:._]?(?P<second>\d\d)(?:[.,_](?P<fraction>\d*))?)?)?"
_FORMS = [
    re.compile(form, re.IGNORECASE)
    for form in (
        r"(?P<year>\d{4})(?:[-:/.]?(?P<month>\d\d))?",
        # 20160601, 2016-06-01T12:30:45Z, 2016:06:01 12:30:45.6+02:00, 2016_06_01_12_30_45_678
        r"(?P<year>\d{4})[-:/._]?(?P<month>\d\d)[-:/._]?(?P<day>\d\d)"
        rf"(?:[T_ ]*(?P<hour>\d\d){_MINUTES}{_ZONE})?",
        # 2016/6/1 9:05
        r"(?P<year>\d{4})[-:/.](?P<month>\d\d?)[-:/.](?P<day>\d\d?)"
        rf"(?:[T_ ]+(?P<hour>\d\d?){_MINUTES}{_ZONE})?",
        # 1.6.2016 9:05, 6/13/2016 2:30:00 PM
        r"(?P<first>\d\d?)(?P<mark>[-/.])(?P<other>\d\d?)(?P=mark)(?P<year>\d{4})"
        rf"(?:[T_, ]+(?P<hour>\d\d?){_MINUTES}{_ZONE})?",
    )
]
_EPOCH = re.compile(r"(\d{9,10})(?:\d{3}){0,3}(?:\.\d+)?")  # of s, ms, us or ns since 1970
_DAY_AND_MONTH = re.compile(r"\s*(\d\d?)([-/])(\d\d?)\2\d{4}\b")
_UTC = datetime.timezone.utc


@dataclass(frozen=True)
class PhotoTime:
    """A time as far as it is known."""

    parts: tuple[int, ...]  # year, month, day, hour, minute, second; later ones may be missing
    fraction_s: float = 0.0
    zone: datetime.tzinfo | None = None  # None if the text does not say it

    def format(self) -> str:
        """Write it as SF-XL does, YYYY[MM[DD[_hh[mm[ss]]]]], without fraction and zone."""
        texts = [f"{self.parts[0]:04d}", *(f"{part:02d}" for part in self.parts[1:])]
        return "".join(texts[:3]) + ("_" if len(texts) > 3 else "") + "".join(texts[3:])

    def epoch_s(self) -> float:
        """Return seconds since 1970 in UTC, which is taken to be the zone if none is known."""
        moment = datetime.datetime(*(self.parts + (1, 1)[len(self.parts) - 1 :]))
        return moment.replace(tzinfo=self.zone or _UTC).timestamp() + self.fraction_s


def format_timestamp(text: str, day_first: bool | None = None) -> str:
    """Write a time as SF-XL does; "" stays empty. See `read_time`."""
    return read_time(text, day_first).format() if text.strip() else ""


def read_time(text: str, day_first: bool | None = None) -> PhotoTime:
    """Read a time.

    Args:
        text: YYYYMMDD and the like; ISO 8601 ("2016-06-01T12:30:00.5+02:00"); as EXIF and exiftool
            have it ("2016:06:01 12:30:00+02:00"); as Mapillary has it; day.month.year; day/month or
            month/day; or seconds, milli-, micro- or nanoseconds since 1970, of 9 digits or more.
        day_first: Whether 03/04/2016 is the third of April; None if that is not known.

    Raises:
        ValueError: If it is none of these, not a date, or may be one of two dates.
    """
    text = re.sub(r"^(\d+)\.0*$", r"\1", text.strip())  # pandas writes integers so beside NaN
    is_epoch = _EPOCH.fullmatch(text) is not None
    if is_epoch and text[:2] not in ("19", "20"):
        return _of_epoch(text)
    match = next(filter(None, (form.fullmatch(text) for form in _FORMS)), None)
    try:
        if match is not None:
            return _of_calendar(match.groupdict(), day_first)
        reason = " as in 20160601, 2016-06-01T12:30:00 or 201606"
    except ValueError as error:
        reason = f": {error}"
    if is_epoch:  # from 2030 on
        return _of_epoch(text)
    raise ValueError(f"'{text}' is not a time{reason}")


def find_day_first(texts: Iterable[str]) -> bool | None:
    """Return whether dates such as 13/06/2016 have the day first, as some of a column tell.

    None if none of them tells it, or they contradict each other.
    """
    matches = filter(None, map(_DAY_AND_MONTH.match, texts))
    orders = {int(match[1]) > 12 for match in matches if max(int(match[1]), int(match[3])) > 12}
    return orders.pop() if len(orders) == 1 else None


def _of_epoch(text: str) -> PhotoTime:
    digits, _, decimals = text.partition(".")
    num_small = (len(digits) - 9) // 3 * 3  # digits of the fraction
    seconds, fraction = digits[: len(digits) - num_small], digits[len(digits) - num_small :]
    moment = datetime.datetime.fromtimestamp(int(seconds), _UTC)
    return PhotoTime(tuple(moment.timetuple()[:6]), float(f"0.{fraction}{decimals}"), _UTC)


def _of_calendar(fields: dict[str, str | None], day_first: bool | None) -> PhotoTime:
    if fields.get("first"):
        fields["day"], fields["month"] = _order(fields, day_first)
    names = ("year", "month", "day", "hour", "minute", "second")
    parts = [int(fields[name]) for name in names if fields.get(name)]
    if (half := fields.get("half")) and len(parts) > 3:
        if not 1 <= parts[3] <= 12:
            raise ValueError(f"hour must be in 1..12 before {half}")
        parts[3] = parts[3] % 12 + 12 * (half.upper() == "PM")
    datetime.datetime(*(parts + [1, 1][len(parts) - 1 :]))  # month and day may be absent
    fraction_s = float(f"0.{fields.get('fraction') or 0}")
    return PhotoTime(tuple(parts), fraction_s, _read_zone(fields.get("zone") or ""))


def _order(fields: dict[str, str | None], day_first: bool | None) -> tuple[str, str]:
    """Return day and month of a date that ends in the year."""
    first, other = fields["first"], fields["other"]
    if fields["mark"] == "." or int(first) > 12 or first == other:
        return first, other
    if int(other) > 12:
        return other, first
    if day_first is None:
        raise ValueError("its day may be the first or the second number")
    return (first, other) if day_first else (other, first)


def _read_zone(text: str) -> datetime.tzinfo | None:
    if text[:1] not in ("+", "-"):
        return _UTC if text else None
    digits = text[1:].replace(":", "").ljust(4, "0")
    offset = datetime.timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return datetime.timezone(-offset if text[0] == "-" else offset)
