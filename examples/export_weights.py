"""Export the averaged weights of a finished run, with a model card beside them.

python examples/export_weights.py runs/static-mnist-quick static-mnist
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from shared import averaged_run, exit_status

from pyro_vlae.run_config import RunConfig
from pyro_vlae.training import save_weights

WEIGHTS = Path(__file__).parents[1] / "models" / "weights"
CARD = """# {name}

Weights of a VLAE for {dataset_description}; load them by `load_pretrained("{name}")`.

- Trained on {train_on} for {train_seconds:.0f} s ({train_images_seen:,} images seen) on
  {device}, seed {seed}; Polyak average {ema_decay:g}. {converged}
- Test NLL {nll_nats:.2f} ± {nll_standard_error:.2f} nats per image (standard error over
  {num_images:,} test images, {num_samples} importance samples each, median effective sample size
  {median_effective_sample_size:.1f}), bound {bound:.2f}, rate {kl_nats:.2f} nats.
- `{command}`
- For research on generative models of small binary images; it knows nothing else.
"""


def main() -> int:
    """Write models/weights/NAME.safetensors and NAME.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("name", help="what load_pretrained is to call it")
    options = parser.parse_args()
    results = json.loads((options.run / "results.json").read_text())
    with averaged_run(options.run, RunConfig, torch.device("cpu")) as (config, modules):
        card = json.dumps({"config": asdict(config), "results": results})
        WEIGHTS.mkdir(exist_ok=True)
        save_weights(WEIGHTS / f"{options.name}.safetensors", modules, {"card": card})
    quick = "Not converged: it ran only as long as stated."
    converged = quick if config.preset == "quick" else "The full recipe."
    figures = {**asdict(config), **results, "name": options.name, "bound": -results["elbo_nats"]}
    text = CARD.format(**figures, converged=converged)
    (WEIGHTS / f"{options.name}.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, ""))
