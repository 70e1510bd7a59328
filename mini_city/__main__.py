"""Command line of the mini city."""

import argparse
import logging
import sys
from dataclasses import replace

import commons
from command_line import CommandLine
from mini_city import PRESETS, generate

_logger = logging.getLogger("mini_city")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    cli = CommandLine(
        prog="python -m mini_city",
        description="Write a procedural city in the layout of SF-XL.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    cli.add_argument("--folder", default="data/mini_city", help="where to write the city")
    cli.add_argument("--preset", default="demo", choices=PRESETS, help="size of the city")
    cli.add_argument("--image_size", type=int, help="side of the crops in pixels, not the preset's")
    cli.add_argument("--seed", type=int, default=0, help="another seed is another city")
    cli.add_argument("--num_workers", type=int, help="number of processes; all cores if not given")
    cli.add_argument("--overwrite", action="store_true", help="replace another mini city")
    return cli.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Generate the city that the command line asks for.

    Returns:
        The exit code: 0, or 2 if the folder is taken or a size is impossible.
    """
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    params = PRESETS[args.preset]
    try:
        if args.image_size is not None:
            params = replace(params, image_size_px=args.image_size)
        is_new = generate(args.folder, params, args.seed, args.num_workers, args.overwrite)
    except (FileExistsError, ValueError) as error:
        _logger.error("Error: %s", error)
        return 2
    if is_new:
        _logger.info("Wrote the mini city to %s/processed", args.folder)
    else:
        _logger.info("%s holds this mini city already: nothing to do", args.folder)
    return 0


if __name__ == "__main__":
    commons.run_command(lambda: sys.exit(main()))
