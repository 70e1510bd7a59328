"""Times as people write them, to the time in an '@' name."""

import datetime
import re

_PATTERN = re.compile(
    r"(?P<year>\d{4})"
    r"(?:[-:/.]?(?P<month>\d\d)"
    r"(?:[-:/.]?(?P<day>\d\d)"
    r"(?:[T_ ]*(?P<hour>\d\d)"
    r"(?::?(?P<minute>\d\d)"
    r"(?::?(?P<second>\d\d)(?:[.,]\d*)?"
    r")?)?)?)?)?"
    r"\s*(?:Z|UTC|[+-]\d\d:?\d\d)?"
)


def format_timestamp(text: str) -> str:
    """Write a time the way SF-XL does: YYYY[MM[DD[_hh[mm[ss]]]]].

    Args:
        text: YYYYMMDD and the like, ISO 8601 ("2016-06-01T12:30:00+02:00") or as EXIF writes it
            ("2016:06:01 12:30:00"); or empty. Fractions of a second and the time zone are dropped.

    Raises:
        ValueError: If it is none of these, or no date of the calendar.
    """
    if not (text := text.strip()):
        return ""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is no time as in 20160601, 2016-06-01T12:30:00 or 201606")
    parts = [part for part in match.groups() if part is not None]
    try:
        datetime.datetime(
            *map(int, parts), *(1, 1)[len(parts) - 1 :]
        )  # month and day may be absent
    except ValueError as error:
        raise ValueError(f"'{text}' is no time: {error}") from None
    return "".join(parts[:3]) + ("_" if len(parts) > 3 else "") + "".join(parts[3:])
