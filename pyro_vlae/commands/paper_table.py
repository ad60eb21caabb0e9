"""Train and score the rows of one of the paper's tables of binary images.

    %(prog)s static-mnist

Each row gets a folder under results/; `python examples/results_page.py` then
compares the results with the paper's. Rows that already have results are
skipped; to run all of them, choose another folder with --results.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vlae.experiments import BinaryRecipe, ConfigError
from pyro_vlae.experiments.command_line import (
    add_place_options,
    add_recipe_options,
    make_parser,
    pick_device,
    recipe_options,
)
from pyro_vlae.experiments.options import BUDGET
from pyro_vlae.experiments.paper_tables import TABLES
from pyro_vlae.experiments.train_command import carry_out
from pyro_vlae.reproducible import read_json
from pyro_vlae.training import has_checkpoint, read_checkpoint

OPTIONS = ("epochs", "max_minutes", "seed", "num_samples", "eval_images", "precision", "compile")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("table", choices=TABLES, metavar="TABLE", help=f"the table for {', '.join(TABLES)}")
    add("--rows", nargs="+", metavar="ROW", help="run only these rows")
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    add("--resume", action="store_true", help="continue unfinished rows")
    add_recipe_options(parser, BinaryRecipe, ("preset", *OPTIONS))
    add_place_options(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the rows one by one, and return the exit status."""
    options = parse(arguments)
    rows = {row.name: row for row in TABLES[options.table]}
    unknown = set(options.rows or ()) - set(rows)
    if unknown:
        raise ConfigError(f"no such row: {min(unknown)}; the table has {', '.join(rows)}")
    given = recipe_options(options, BinaryRecipe)
    device = pick_device(options.device)
    data = None
    for name in options.rows or rows:
        out = options.results / name
        begun = has_checkpoint(out)
        if (out / "results.json").exists() and not begun:
            print(f"\n{name}: skipped, {out} already holds its results; move them to run it again")
            continue
        if begun and _is_scored(out, BinaryRecipe.resume(out, **given)):
            print(f"\n{name}: skipped, {out} already holds its results")
            continue
        if options.resume and begun:
            recipe = BinaryRecipe.resume(out, **given)
        else:
            chosen = {**given, **rows[name].options, "dataset": options.table}
            recipe = BinaryRecipe.from_options(**chosen)
        if data is None:
            data = recipe.load_data(options.data_dir, device)
            print(data.description)
        print(f"\n{name}")
        carry_out(recipe, data, out, options.resume)
    return 0


def _is_scored(out: Path, recipe: BinaryRecipe) -> bool:
    """Whether the results of the run in a folder are those of its checkpoint and this recipe."""
    if not (out / "results.json").exists():
        return False
    results = read_json(out / "results.json")
    state = read_checkpoint(out / "checkpoint").state
    names = ["num_samples", "eval_images"]
    if not _is_trained(recipe, state):
        names += BUDGET
    return results.get("train_images_seen") == state["images_seen"] and all(
        results.get(name) == getattr(recipe, name) for name in names
    )


def _is_trained(recipe: BinaryRecipe, state: Mapping[str, Any]) -> bool:
    """Whether the state of a checkpoint leaves nothing of the recipe's budget."""
    per_epoch = state["training_images"] // state["batch_size"]
    return recipe.training_settings().progress(state["step"], state["seconds"], per_epoch) >= 1
