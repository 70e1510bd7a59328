"""Loops over the bytes of '@' file names; `name_fields` says what they are for.

A field of a name is given by its bounds, its first and its past-the-end byte in the text. Bounds of
some fields of some names are one array, int64 [num_fields, 2, num_names].
"""

import numpy as np

from datasets.compiled import compiled

TIMESTAMP_FIELD = 13
_AT, _SLASH, _TAB, _DOT, _MINUS = (ord(character) for character in "@/\t.-")
_NEWLINE = ord("\n")
_ZERO, _NINE = ord("0"), ord("9")
_MAX_ATS = 20  # what follows is not looked for
_OLD_ATS = (7, 9)  # old SF-XL test names have the timestamp in their last part
_MAX_EXACT = 2**53  # integers up to this one are exact in float64
_POWERS_OF_TEN = np.array([float(f"1e{n}") for n in range(23)])  # these as well
_WORD = 8  # bytes of a text that are hashed at a time
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, 2**64 divided by the golden ratio
_HASH_SHIFT = np.uint64(29)


@compiled
def locate_fields(
    text: np.ndarray, starts: np.ndarray, ends: np.ndarray, fields: np.ndarray
) -> np.ndarray:
    """Find '@' fields in the basenames of lines; a field that is not there has no length.

    The '@' name begins after the last slash of its line, or after the tab where there is one.

    Args:
        text: uint8 [num_bytes].
        starts: First byte of each line. int64 [num_names].
        ends: One past the last byte of each line. int64 [num_names].
        fields: Parts of basename.split("@"), 1 to 19. int64 [num_fields].

    Returns:
        Bounds, int64 [num_fields, 2, num_names].
    """
    bounds = np.zeros((len(fields), 2, len(starts)), np.int64)
    ats = np.zeros(_MAX_ATS, np.int64)
    for name in range(len(starts)):
        num_ats, place = 0, starts[name]
        for byte in text[starts[name] : ends[name]]:  # faster than by index
            if byte == _AT:
                if num_ats < _MAX_ATS:
                    ats[num_ats] = place
                num_ats += 1
            elif byte in (_SLASH, _TAB):
                num_ats = 0
            place += 1
        for row in range(len(fields)):
            field = fields[row]
            if field == TIMESTAMP_FIELD and _OLD_ATS[0] <= num_ats <= _OLD_ATS[1]:
                first = ats[num_ats - 1] + 1
                past = ends[name] - 1  # the last dot begins the extension
                while past > first and text[past] != _DOT:
                    past -= 1
                bounds[row, 0, name], bounds[row, 1, name] = first, max(first, past)
            elif num_ats > field:  # the last part carries the extension and is never a field
                bounds[row, 0, name], bounds[row, 1, name] = ats[field - 1] + 1, ats[field]
    return bounds


@compiled
def has_suspects(text: np.ndarray) -> bool:
    """Tell whether there are two dots in a row, a slash after a newline, or a zero byte.

    Args:
        text: uint8 [num_bytes].
    """
    found = 0
    for place in range(1, len(text)):  # in this form, compilers look at many bytes at once
        before, byte = text[place - 1], text[place]
        found |= ((byte ^ _DOT) | (before ^ _DOT)) == 0
        found |= ((byte ^ _SLASH) | (before ^ _NEWLINE)) == 0
        found |= byte == 0
    return found != 0


@compiled
def parse_decimals(text: np.ndarray, bounds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Read decimal numbers of digits, at most one dot and a minus; NaN where there is none.

    The digits are gathered into an integer; one of at most 2**53, divided by a power of ten of at
    most 10**22, is rounded once, hence equals `float()`.

    Args:
        text: uint8 [num_bytes].
        bounds: Of one field, int64 [2, num_names].
        values: Written to. float64 [num_names].

    Returns:
        Which fields are there and do not look like that. bool [num_names].
    """
    is_other = np.zeros(len(values), np.bool_)
    for name in range(len(values)):
        first, past = bounds[0, name], bounds[1, name]
        is_negative = first < past and text[first] == _MINUS
        digits, num_digits, num_decimals, num_dots = 0, 0, 0, 0
        is_plain = True
        for place in range(first + is_negative, past):
            byte = text[place]
            if _ZERO <= byte <= _NINE:
                digits = 10 * digits + (byte - _ZERO)
                num_digits += 1
                num_decimals += num_dots
            elif byte == _DOT:
                num_dots += 1
            else:
                is_plain = False
            if digits > _MAX_EXACT:  # stop here: it must not overflow
                is_plain = False
                break
        is_plain &= num_digits > 0 and num_dots <= 1 and num_decimals < len(_POWERS_OF_TEN)
        if is_plain:
            value = digits / _POWERS_OF_TEN[num_decimals]
            values[name] = -value if is_negative else value
        else:
            values[name] = np.nan
            is_other[name] = past > first
    return is_other


@compiled
def copy_prefixes(text: np.ndarray, bounds: np.ndarray, prefixes: np.ndarray) -> None:
    """Copy the first bytes of each field.

    Args:
        text: uint8 [num_bytes].
        bounds: Of one field, int64 [2, num_names].
        prefixes: Written to where the field has bytes. uint8 [num_names, width].
    """
    for name in range(len(prefixes)):
        first = bounds[0, name]
        for column in range(min(prefixes.shape[1], bounds[1, name] - first)):
            prefixes[name, column] = text[first + column]


@compiled
def hash_texts(text: np.ndarray, bounds: np.ndarray, hashes: np.ndarray) -> None:
    """Hash some fields of each name together, with their widths, 8 bytes at a time.

    Args:
        text: uint8 [num_bytes].
        bounds: int64 [num_fields, 2, num_names].
        hashes: Written to. uint64 [num_names].
    """
    for name in range(len(hashes)):
        mixed = np.uint64(0)
        for row in range(len(bounds)):
            first, past = bounds[row, 0, name], bounds[row, 1, name]
            mixed = (mixed ^ np.uint64(past - first)) * _HASH_FACTOR  # modulo 2**64
            mixed ^= mixed >> _HASH_SHIFT
            for begin in range(first, past, _WORD):
                word = np.uint64(0)
                for place in range(begin, min(begin + _WORD, past)):
                    word |= np.uint64(text[place]) << np.uint64(8 * (place - begin))
                mixed = (mixed ^ word) * _HASH_FACTOR
                mixed ^= mixed >> _HASH_SHIFT
        hashes[name] = mixed
