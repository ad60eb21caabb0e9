"""Train and score a Variational Lossy Autoencoder on piano rolls.

    python examples/piano_rolls.py

Without options it trains on the JSB chorales for twenty minutes on a CPU.
Besides what the other scripts write, the folder of the run gets continuations
of test pieces, their melodies with other codes, and MIDI files of all of them.
"""

import sys
from pathlib import Path
from typing import Any

from pyro_vlae.data.piano_rolls import PianoRollDataset
from pyro_vlae.experiments import PianoRollRecipe, load_run
from pyro_vlae.experiments.command_line import exit_status
from pyro_vlae.experiments.piano_roll_music import play
from pyro_vlae.experiments.train_command import train
from pyro_vlae.infer.distributed import rank
from pyro_vlae.reproducible import write_json


def main(arguments: list[str] | None = None) -> int:
    """Run or resume the experiment, play music, and return the exit status."""
    return train(PianoRollRecipe, __doc__, arguments, finish)


def finish(
    recipe: PianoRollRecipe, data: PianoRollDataset, out: Path, results: dict[str, Any]
) -> None:
    """Print the scores per frame, and write music."""
    print(
        f"per frame: NLL {results['nll_nats_per_frame']:.3f} nats, bound "
        f"{results['bound_nats_per_frame']:.3f}, rate {results['kl_nats_per_frame']:.3f}"
    )
    if rank() == 0:
        model, guide = (module.to(data.test.images.device) for module in load_run(out))
        played = play(model, guide, data.test, out, recipe.seed)
        write_json(out / "results.json", {**results, **played})
        print(f"MIDI files are in {out / 'midi'}")


if __name__ == "__main__":
    sys.exit(exit_status(main, "--resume --out {out}"))
