"""Export the averaged weights of a run, with a model card beside them.

They are stored in float16, unless that changes log p(x) by more than 0.01
nats, as it does for color images, whose pixels are predicted very precisely.

python examples/export_weights.py runs/static-mnist-quick static-mnist
"""

import copy
import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from pyro_vlae.experiments import ConfigError, load_run
from pyro_vlae.experiments.command_line import exit_status, make_parser
from pyro_vlae.experiments.recipes import read_recipe
from pyro_vlae.infer import marginal_log_likelihood
from pyro_vlae.training import save_weights

LIMIT = 0.01  # nats
HALF = """Stored in float16, which changes log p(x) of an image by {:.4f} nats on average and the
  mean of {} test images by {:+.4f} (8 importance samples with the same noise)."""
WEIGHTS = Path(__file__).parents[1] / "models" / "weights"
CARD = """# {name}

Weights of a VLAE for {dataset_description}; load them with `load_pretrained("{name}")`.

- Trained on the {splits} images for {train_seconds:.0f} s
  ({train_images_seen:,} images seen){source} on
  {device}, seed {seed}; Polyak average {ema_decay:g},
  maximizing the {objective}. {converged}
- Test NLL {nll_nats:.2f} ± {nll_standard_error:.2f} nats per image (standard error over
  {num_images:,} test images, {num_samples} importance samples each, median effective sample size
  {median_effective_sample_size:.1f}), {bits_per_dim:.4f} bits/dim; bound {bound:.2f}, rate
  {kl_nats:.2f} nats.
- {stored}
- `{command}`
- Intended for research on generative models of small images only.
"""


def main() -> int:
    """Write models/weights/NAME.safetensors and NAME.md."""
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("name", help="name for load_pretrained")
    options = parser.parse_args()
    model, guide = load_run(options.run)
    config, results = model.card["config"], model.card["results"]
    if results is None:
        raise ConfigError(
            f"{options.run} has no results of its latest weights: finish the run first, with "
            "--resume"
        )
    half = {"model": copy.deepcopy(model).half(), "guide": copy.deepcopy(guide).half()}
    recipe = read_recipe(options.run)
    test = recipe.load_data(None, torch.device("cpu")).test
    x = test.subset(min(500, len(test)), seed=0).batch(slice(None))
    change = _log_prob(half["model"].float(), half["guide"].float(), x) - _log_prob(model, guide, x)
    small = change.abs().mean() < LIMIT
    stored = {name: module.half() for name, module in half.items()}
    WEIGHTS.mkdir(exist_ok=True)
    save_weights(
        WEIGHTS / f"{options.name}.safetensors",
        stored if small else {"model": model, "guide": guide},
        {"card": json.dumps(model.card)},
    )
    quick = "Not converged: trained only as long as stated."
    source = config["start_from"]
    text = CARD.format(
        **{**config, **results},
        source=f", starting from the weights of `{Path(source).name}`," if source else "",
        name=options.name,
        splits=config["train_on"].replace("train", "training").replace("+", " and "),
        objective=recipe.describe_objective(),
        bound=-results["elbo_nats"],
        stored=HALF.format(change.abs().mean(), len(x), change.mean())
        if small
        else "Stored in float32.",
        converged=quick if config["preset"] == "quick" else "The full recipe.",
    )
    (WEIGHTS / f"{options.name}.md").write_text(text)
    print(f"wrote {WEIGHTS / options.name}.safetensors and its card, {options.name}.md")
    return 0


def _log_prob(model: nn.Module, guide: nn.Module, x: Tensor) -> Tensor:
    """Estimates of log p(x) of each image, with the same noise at each call."""
    return marginal_log_likelihood(model, guide, x, num_samples=8, seed=0).log_prob


if __name__ == "__main__":
    sys.exit(exit_status(main))
