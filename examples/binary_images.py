"""Train and score the rows of one of the paper's tables of binary images.

    python examples/binary_images.py static-mnist

Each row goes to its folder under results/; `python examples/results_page.py`
then compares with the paper. A row whose results are there is skipped: give
--results a folder of your own to run them all.
"""

import argparse
import sys
from pathlib import Path

from pyro_vlae.data import load_dataset
from pyro_vlae.experiments.command_line import (
    add_run_options,
    carry_out,
    exit_status,
    make_parser,
    pick_device,
    pick_preset,
)
from pyro_vlae.experiments.config import ConfigError, make_config, read_config
from pyro_vlae.experiments.paper_tables import TABLES
from pyro_vlae.training.checkpoint import has_checkpoint


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options; None where nothing was given."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("table", choices=TABLES, metavar="TABLE", help=f"by its data set: {', '.join(TABLES)}")
    add("--rows", nargs="+", metavar="ROW", help="these rows only")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    add("--resume", action="store_true", help="go on with rows that were begun")
    add_run_options(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the rows one after the other; returns the exit status."""
    options = parse(arguments)
    rows = {row.name: row for row in TABLES[options.table]}
    unknown = set(options.rows or ()) - set(rows)
    if unknown:
        raise ConfigError(f"no such row: {min(unknown)}; the table has {', '.join(rows)}")
    device = pick_device(options.device)
    names = ("epochs", "max_minutes", "seed", "num_samples", "eval_images")
    given = {name: getattr(options, name) for name in names}
    preset = pick_preset(options.preset, device)
    data = load_dataset(options.table, options.data_dir, device)
    print(data.description)
    for name in options.rows or rows:
        out = options.results / name
        if (out / "results.json").exists() and not has_checkpoint(out):
            print(f"\n{name}: {out} holds its results already, skipped; move them away to run it")
            continue
        resume = options.resume and has_checkpoint(out)
        if resume:
            config = read_config(out, given)
        else:
            chosen = {**given, **rows[name].options, "preset": preset, "dataset": options.table}
            config = make_config(chosen)
        print(f"\n{name}")
        carry_out(config, data, device, out, resume)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, "the same command and --resume"))
