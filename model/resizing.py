"""Resize rules of test images, and which of them holds for a network.

none                       images as they are
480                        shorter side, in pixels
480x640                    height x width
multiple14                 each side to the nearest multiple of 14, as transformers need it
320x320-bicubic            bicubic interpolation; without it, bilinear
320x320-pillow             as Pillow resizes images of whole grey levels; also -bicubic-pillow
480x640-no_antialias       as tensors were resized when the visual geo-localization benchmark
                           was published; all others have antialias

A network of ours, or a published one, may have a rule of its own: the one that it was validated
with. `build_network` stores it among the arguments of the architecture.
"""

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # names and rules are read without torch
    from torch import nn

IMAGE_SIZE = 512  # of training, in pixels, where the backbone has no size of its own
RULES = (
    "A resize rule is 'none', the shorter side as in '480', HxW as in '480x640', both in pixels "
    "and with '-bicubic', '-pillow' or '-no_antialias' after it or not, or 'multiple14'"
)
_RULE = re.compile(r"([0-9]+)(?:x([0-9]+))?(-bicubic)?(-pillow|-no_antialias)?")
_MULTIPLE = re.compile(r"multiple([0-9]+)")


class ResizeRule(NamedTuple):
    """How an image is resized."""

    sides: tuple[int, ...] = ()  # none, the shorter one, or height and width
    multiple: int = 0  # both sides become the nearest multiples of it; 0: see `sides`
    bicubic: bool = False
    antialias: bool = True
    as_pillow: bool = False

    def size_of(self, height: int, width: int) -> list[int]:
        """Return what an image is resized to: [], [shorter side] or [height, width].

        Halves go to the even multiple, as Python rounds; no side is shorter than one multiple.
        """
        if not self.multiple:
            return list(self.sides)
        return [max(1, round(side / self.multiple)) * self.multiple for side in (height, width)]


def read_rule(text: str) -> ResizeRule:
    """Read a resize rule, see the top of this file.

    Raises:
        ValueError: If it is none.
    """
    lower = text.lower() if isinstance(text, str) else ""  # a file may say anything
    if lower == "none":
        return ResizeRule()
    match, multiple = _RULE.fullmatch(lower), _MULTIPLE.fullmatch(lower)
    if multiple and int(multiple[1]):
        return ResizeRule(multiple=int(multiple[1]))
    sides = tuple(int(side) for side in match.groups()[:2] if side) if match else ()
    if not sides or not all(sides):
        raise ValueError(f"{RULES}; not '{text}'")
    return ResizeRule(
        sides,
        bicubic=bool(match[3]),
        antialias=match[4] != "-no_antialias",
        as_pillow=match[4] == "-pillow",
    )


def parse_resize(rule: str) -> list[int]:
    """Return the sides that a rule asks for: "none" and "multiple14" -> [], "480" -> [480].

    Raises:
        ValueError: If it is no resize rule.
    """
    return list(read_rule(rule).sides)


def split_rule(text: str) -> tuple[str, str | None]:
    """Return the spec of a model without the @RULE that it ends with, and the rule.

    An @ that no resize rule follows belongs to the spec, such as to the name of a file.
    """
    spec, at, rule = text.rpartition("@")
    try:
        read_rule(rule)
    except ValueError:
        return text, None
    return (spec, rule) if at else (text, None)


def describe_resize(rule: str) -> str:
    """Return a rule in words."""
    if rule == "none":
        return "not resized"
    multiple = read_rule(rule).multiple
    return f"sides resized to multiples of {multiple}" if multiple else f"resized to {rule}"


def choose_resize(
    asked: str | None, image_size: int | str | None, model: "nn.Module | None" = None
) -> str | None:
    """Return the rule by which test images are resized.

    Args:
        asked: --resize_test_imgs: a rule; "" for the shorter side to the training images'; None if
            the flag is not given.
        image_size: --image_size, a side or "HxW", None if the flag is not given.
        model: The network, whose `resize` is its own rule, and whose `image_size` is that of its
            backbone; None if not known yet.

    Returns:
        A rule; None: as the test set prescribes. A network's own rule holds unless a rule is asked
        for. Networks without, whose backbone has a size, are tested at the size of the training
        images, if it is known.
    """
    own = getattr(model, "image_size", None)  # models of others have none
    if asked == "":
        return str(image_size or own or IMAGE_SIZE)
    if asked is not None:
        return asked
    if (rule := getattr(model, "resize", None)) is not None:
        return rule
    return None if own is None else _both_sides(image_size or own)


def _both_sides(size: int | str) -> str:
    return str(size) if "x" in str(size) else f"{size}x{size}"


def own_rule(
    rule: str | None, image_size: int | str, has_size: bool, has_map_size: bool = False
) -> str | None:
    """Return what a network keeps of the rule that it is validated with.

    Args:
        rule: Of validation; None: as the set prescribes.
        image_size: Of its training images.
        has_size: Whether its backbone has a size, so that squares of `image_size` are the default.
        has_map_size: Whether its aggregation is for maps of one size.

    Returns:
        The rule, if the network sees all images in one shape or in multiples: it is to be tested
        like that, too. None where its default does the same, and where the rule belongs to the
        protocol: the shorter side, or the height and width of the benchmark, for a network that
        takes images of any size.
    """
    if rule is None:
        return None
    sides, multiple = read_rule(rule)[:2]
    is_square = len(sides) == 2 and sides[0] == sides[1]
    if not (has_size or is_square or multiple or (has_map_size and sides)):
        return None
    return None if has_size and is_square and rule == _both_sides(image_size) else rule
