"""What all command lines share: errors, help, kinds of values, defaults that come from elsewhere.

Flags of train.py, eval.py and localize.py are in `parser`; this knows no flag of a method.
"""

import argparse
import contextlib
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from machine import num_usable_cores

_PLAIN = (bool, int, float, str)


class CommandLine(argparse.ArgumentParser):
    """Expands ~ at the beginning of values and defaults; corrects names that are misspelt.

    Shells leave ~ after `--flag=`.
    """

    hints: dict[str, str] = {}  # what to say of flags that other programs have

    def parse_known_args(self, args=None, namespace=None):  # noqa: ANN001, ANN201
        """Parse arguments; those of the process if there are none."""
        args = [_expand_home(text) for text in (sys.argv[1:] if args is None else args)]
        for action in self._actions:
            if isinstance(action.default, str):
                action.default = os.path.expanduser(action.default)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2, without the list of all flags; correct those that are unknown."""
        _, is_unknown, words = message.partition("unrecognized arguments: ")
        if is_unknown:
            flags = (word.partition("=")[0] for word in words.split() if word.startswith("--"))
            for flag in flags:
                meant = _did_you_mean(flag, self._option_string_actions)
                message += "; " + self.hints[flag] if flag in self.hints else meant
        self.exit(2, f"{self.prog}: error: {message} (--help lists all flags)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            meant = _did_you_mean(str(value), map(str, action.choices))
            raise argparse.ArgumentError(action, f"{error.message}{meant}") from None


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a part of a sentence with the most similar name, whatever its case; "" if none is."""
    by_small = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_small, n=1)
    return "".join(f"; did you mean {by_small[name]}?" for name in near)


def _expand_home(text: str) -> str:
    flag, equals, value = text.partition("=") if text.startswith("-") else ("", "", text)
    return flag + equals + os.path.expanduser(value)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there are any; that of a method instead of the one in the help."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is None or action.default is False or action.default in ([], {}):
            return action.help
        text = super()._get_help_string(action)
        return re.sub(r" \(default: [^%]*\)(?= \(default: %)", "", text)


class Pairs(argparse.Action):
    """Collects pairs of a flag in a dict."""

    def __call__(self, cli, namespace, values, option_string=None) -> None:  # noqa: ANN001
        """Store the pairs given."""
        setattr(namespace, self.dest, dict(values))


def read_pair(text: str) -> tuple[str, float]:
    """Read NAME=NUMBER."""
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is NAME=NUMBER, not {text}") from None


def set_defaults(
    cli: argparse.ArgumentParser, defaults: dict[str, Any], whose: str = "the method"
) -> None:
    """Replace defaults of flags; end with exit code 2 if one is no value of its flag."""
    for action in cli._actions:
        if action.dest in defaults:
            _check_default(cli, action, defaults[action.dest], whose)
            cli.set_defaults(**{action.dest: defaults[action.dest]})


def _check_default(
    cli: argparse.ArgumentParser, action: argparse.Action, value: Any, whose: str
) -> None:
    was_switch = action.nargs == "?" and value is False  # in older checkpoints
    is_unset = value is None or value == action.default or was_switch
    if not is_unset and not _is_value(action, value):
        cli.error(f"{whose} has no value for --{action.dest}: {value!r}")


def _is_value(action: argparse.Action, value: Any) -> bool:
    """Return whether a flag may have a value, by the same checks as on the command line."""
    if action.nargs == 0 or isinstance(value, bool):
        return action.nargs == 0 and isinstance(value, bool)
    if isinstance(action, Pairs):
        return isinstance(value, dict) and all(isinstance(one, _PLAIN) for one in value.values())
    is_list = action.nargs in ("*", "+")
    if is_list != isinstance(value, (list, tuple)):
        return False
    values = list(value) if is_list else [value]
    if not all(isinstance(one, _PLAIN) for one in values):
        return False
    try:
        read = [action.type(str(one)) if action.type else str(one) for one in values]
    except (ValueError, argparse.ArgumentTypeError):
        return False
    return read == values and (action.choices is None or all(v in action.choices for v in values))


def read_flag(flag: str, argv: Sequence[str] | None) -> str | None:
    """Return the value of a flag, which decides the defaults of others; None without one."""
    cli = CommandLine(add_help=False, allow_abbrev=False, exit_on_error=False)
    cli.add_argument(flag, nargs="?", dest="value")
    return cli.parse_known_args(argv)[0].value


def default_datasets_folder() -> str:
    """Return the variable DATASETS_FOLDER; an empty one counts as not set."""
    return os.environ.get("DATASETS_FOLDER") or "data"


def add_device(add: Callable[..., argparse.Action]) -> None:
    """Add --device and --num_workers."""
    add(
        "--device",
        type=device_name,
        default="auto",
        metavar="{auto,cuda,cuda:N,cpu,mps}",
        help="where to compute; cuda:1 is the second GPU",
    )
    add(
        "--num_workers",
        type=not_negative_int,
        default=min(8, num_usable_cores()),
        help="loader processes, of each process that torchrun starts",
    )


def device_name(text: str) -> str:
    """Read a device: auto, cpu, mps, cuda, or a GPU by number, such as cuda:1."""
    kind, colon, number = text.partition(":")
    if text in ("auto", "cuda", "cpu", "mps") or kind == "cuda" and colon and number.isdecimal():
        return text
    raise argparse.ArgumentTypeError(f"is auto, cuda, cuda:N, cpu or mps, not {text}")


def add_io_retries(add: Callable[..., argparse.Action]) -> None:
    """Add --io_retries."""
    add(
        "--io_retries",
        type=not_negative_int,
        default=3,
        metavar="N",
        help="how often a failed read of an image is tried again, after growing pauses",
    )


def positive_int(text: str) -> int:
    """Read a whole number above 0."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def not_negative_int(text: str) -> int:
    """Read a whole number, 0 or above."""
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, not {value}")
    return value


def image_size(text: str) -> int | str:
    """Read the size of training images: a side, or "HxW"."""
    sides = [positive_int(part) for part in text.lower().split("x")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"is a side or HxW, in pixels, not {text}")
    return sides[0] if len(sides) == 1 else f"{sides[0]}x{sides[1]}"


def not_negative_float(text: str) -> float:
    """Read a finite number, 0 or above."""
    if not 0 <= (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 0, not {value}")
    return value


def positive_float(text: str) -> float:
    """Read a finite number above 0."""
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, not {value}")
    return value


def fraction(text: str) -> float:
    """Read a number in 0 to 1."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must be in 0 to 1, not {value}")
    return value


def key_and_value(text: str) -> tuple[str, int | float | bool | str]:
    """Read KEY=VALUE; the value is a whole number, a number, true or false, or else a text."""
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise argparse.ArgumentTypeError(f"write KEY=VALUE, not '{text}'")
    if value.lower() in ("true", "false"):
        return key, value.lower() == "true"
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return key, number(value)
    return key, value
