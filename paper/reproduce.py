"""Tables and figures of the paper, one command each.

python -m paper.reproduce table1                  start missing runs, then compare with the paper
python -m paper.reproduce all --dry_run           only list the runs, with GPU hours and disk
python -m paper.reproduce fig5 --shard 1/4        a quarter of the runs, on one of four machines
python -m paper.reproduce table4 --published_weights      no training: the released networks
python -m paper.reproduce all --scale mini        everything on a procedural city, in minutes
python -m paper.reproduce methods --scale demo    all methods compared on that city, in hours
python -m paper.reproduce modern                  released modern networks, beside published recalls
"""

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import commons
import machine
from command_line import CommandLine, add_device, default_datasets_folder, not_negative_int
from mini_city import generate
from paper.costs import describe_plan
from paper.results_of_runs import Study
from paper.run_log import RunLog
from paper.runs_to_do import FAILED, RunOptions, carry_out, make_steps, take_shard
from paper.scales import SCALES
from paper.targets import ALL_TARGETS, all_of, list_needs, targets_of, write_target
from runs.signals import StopSignals


def main(argv: Sequence[str] | None = None) -> None:
    """Plan the runs, start missing ones, and write the requested tables and figures."""
    args = parse_arguments(argv)
    scale, logs = SCALES[args.scale], Path(args.logs_folder).resolve()
    asked = all_of(scale) if "all" in args.targets else args.targets
    targets = tuple(dict.fromkeys(asked))
    with commons.usage_errors():
        device = str(machine.choose_device(args.device))
    root, name = Path(args.datasets_folder).resolve(), "paper"
    if scale.city:
        name = f"paper_{scale.name}"
        root = root / name
        generate(root / "mini_city", scale.city)
    runs_folder = logs / name
    out = Path(args.out) if args.out else runs_folder / "outputs"

    log = RunLog(logs, str(root))
    study = Study(scale, tuple(args.seeds), log, args.only, args.published_weights)
    needs = list_needs(targets, study)
    if args.only and not needs:
        raise ValueError(f"--only matches no row, curve or sweep of {', '.join(targets)}")
    steps = take_shard(make_steps(needs, args.seeds), *args.shard)
    if args.dry_run:
        logging.info(f"{scale.mark}\n{describe_plan(steps, log, scale.machine)}".lstrip())
        return
    options = RunOptions(runs_folder, str(root), device, args.num_workers)
    with StopSignals("Repeat the command to resume", can_resume=True):
        failures = carry_out(steps, log, options)
    show_outputs(targets, dataclasses.replace(study, failures=failures), out)
    if FAILED in failures.values():
        raise ValueError("Some runs failed, see above: repeat the command to try them again")


def show_outputs(targets: Sequence[str], study: Study, folder: Path) -> None:
    """Write tables and figures; a failure of one does not stop the others.

    Raises:
        ValueError: At the end, if some could not be made.
    """
    problems, without_data = [], []
    for target in targets:
        try:
            logging.info(f"\n{write_target(target, study, folder)}")
        except FileNotFoundError as error:  # usually a data set, named in the first line
            logging.warning(f"\n{target}: {str(error).splitlines()[0]}")
            without_data.append(target)
        except (ValueError, OSError) as error:
            logging.error(f"\n{target}: {error}")
            problems.append(target)
    if without_data:
        logging.info(
            f"\nWithout data, not made: {', '.join(without_data)}. --scale mini draws them on the "
            f"mini city. All else is in {folder}"
        )
    else:
        logging.info(f"\nEverything is in {folder}")
    if problems:
        raise ValueError(f"{', '.join(problems)} could not be made, see above")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    cli = CommandLine(
        prog="python -m paper.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = cli.add_argument
    add("targets", nargs="+", choices=[*ALL_TARGETS, "all"], metavar="TARGET", help="%(choices)s")
    add(
        "--scale",
        choices=SCALES,
        default="paper",
        help="mini: the mini city, as a trial; demo: all methods on a larger one, to compare them",
    )
    add("--dry_run", action="store_true", help="list the runs and stop")
    add(
        "--only",
        default="",
        metavar="TEXT",
        help="start only runs of rows, curves or sweeps whose name contains this; all are shown",
    )
    add(
        "--seeds",
        type=not_negative_int,
        nargs="+",
        default=[0],
        help="several give mean and std",
    )
    add(
        "--published_weights",
        action="store_true",
        help="use released networks instead of training, where available",
    )
    add(
        "--shard",
        type=_shard,
        default=(1, 1),
        metavar="I/N",
        help="do every N-th run, from the I-th",
    )
    add_device(add)
    add(
        "--datasets_folder",
        default=default_datasets_folder(),
        help="as of train.py",
    )
    add("--logs_folder", default="logs", help="of existing and new runs")
    add("--out", metavar="FOLDER", help="for tables and figures (default: LOGS/paper/outputs)")
    args = cli.parse_args(argv)
    scale = SCALES[args.scale]
    if args.published_weights and scale.city:
        cli.error(
            "--published_weights were trained on data sets of the paper: they do not apply to "
            f"--scale {scale.name}"
        )
    if unknown := set(args.targets) - {"all", *targets_of(scale)}:
        names = sorted(unknown)
        others = [name for name, other in SCALES.items() if {*names} <= {*targets_of(other)}]
        cli.error(
            f"--scale {scale.name} has no {', '.join(names)}: it has {', '.join(targets_of(scale))}"
            + "".join(f"; --scale {' or '.join(others)} has it" for _ in others[:1])
        )
    return args


def _shard(text: str) -> tuple[int, int]:
    """Read I/N, 1/N to N/N."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 1 to N, such as 1/4, not {text}")
    return int(first), int(second)


if __name__ == "__main__":
    commons.run_command(main)
