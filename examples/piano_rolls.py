"""Train and score a Variational Lossy Autoencoder on piano rolls.

    python examples/piano_rolls.py

Without options it trains on the JSB chorales for twenty minutes on a CPU.
Besides what the other scripts write, the folder of the run gets continuations
of test pieces, their melodies with other codes, and MIDI files of all of them.
"""

import sys

from pyro_vlae.experiments import PianoRollRecipe, load_run
from pyro_vlae.experiments.command_line import (
    add_place_options,
    add_recipe_options,
    carry_out,
    exit_status,
    folder,
    make_parser,
    new_folder,
    pick_device,
    recipe_options,
)
from pyro_vlae.experiments.options import ConfigError
from pyro_vlae.experiments.piano_roll_music import play
from pyro_vlae.infer.distributed import from_rank_0, rank
from pyro_vlae.reproducible import write_json


def main(arguments: list[str] | None = None) -> int:
    """Run or resume the experiment, play music, and return the exit status."""
    parser = make_parser(__doc__)
    parser.usage = "%(prog)s [options]"
    add_recipe_options(parser, PianoRollRecipe)
    add_place_options(parser)
    text = "default: runs/DATASET-PRESET, numbered"
    parser.add_argument("--out", type=folder, metavar="DIR", help=text)
    parser.add_argument("--resume", action="store_true", help="continue the run in --out DIR")
    options = parser.parse_args(arguments)
    given = recipe_options(options, PianoRollRecipe)
    if options.resume and not options.out:
        raise ConfigError("--resume needs --out DIR, the folder of the run to continue")
    recipe = (
        PianoRollRecipe.resume(options.out, **given)
        if from_rank_0(options.resume and (options.out / "config.json").exists())
        else PianoRollRecipe.from_options(**given)
    )
    device = pick_device(options.device)
    data = recipe.load_data(options.data_dir, device)
    out = from_rank_0(options.out or new_folder(recipe))
    print(data.description)
    results = carry_out(recipe, data, out, options.resume)
    print(
        f"per frame: NLL {results['nll_nats_per_frame']:.3f} nats, bound "
        f"{results['bound_nats_per_frame']:.3f}, rate {results['kl_nats_per_frame']:.3f}"
    )
    if rank() == 0:
        model, guide = (module.to(device) for module in load_run(out))
        played = play(model, guide, data.test, out, recipe.seed)
        write_json(out / "results.json", {**results, **played})
        print(f"MIDI files are in {out / 'midi'}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, "--resume --out {out}"))
