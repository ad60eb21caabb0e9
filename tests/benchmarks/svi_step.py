"""Step time of Pyro's SVI with our optimizer, against a hand-written torch step.

Same networks, same objective, one process; the two are timed in turn and compared by medians.

    OMP_NUM_THREADS=1 python tests/benchmarks/svi_step.py [--batch-size 64] [--device cpu]
"""

import argparse
import copy
from collections.abc import Callable

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from timing import interleaved, print_table

from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import FreeBitsELBO, JointOptim, initialize
from pyro_vlae.models import VLAE, binary_vlae


def torch_step(model: VLAE, guide: GaussianGuide, x: torch.Tensor) -> Callable[[], None]:
    """What one would write without Pyro: same ELBO, one foreach Adamax, running average."""
    parameters = [*model.parameters(), *guide.parameters()]
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.Adamax(parameters, lr=0.002, foreach=True)

    def step() -> None:
        posterior = guide.posterior(x)
        z = posterior.rsample()
        rate = posterior.log_prob(z) - model.prior().log_prob(z)
        log_likelihood = model.likelihood(model.decoder(z)).log_prob(x)
        loss = (rate.mean().clamp(min=7.84) - log_likelihood.mean()) * len(x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1000.0 * len(x))
        optimizer.step()
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 0.002)
        optimizer.zero_grad()
        loss.item()

    return step


def svi_step(
    model: VLAE, guide: GaussianGuide, x: torch.Tensor, optimizer: pyro.optim.PyroOptim
) -> Callable[[], None]:
    """One ordinary SVI step."""
    ours = isinstance(optimizer, JointOptim)
    svi = SVI(model, guide, optimizer, FreeBitsELBO(7.84) if ours else Trace_ELBO())
    return lambda: svi.step(x)


def main() -> None:
    """Print a table of medians, spread and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    torch.manual_seed(0)
    x = torch.rand(options.batch_size, 1, 28, 28, device=device).round()
    model, guide = binary_vlae().to(device), GaussianGuide().to(device)
    initialize(model, guide, x)  # once, so that all start from the same weights
    joint = JointOptim(
        torch.optim.Adamax, {"lr": 0.002}, clip_norm=1000.0 * len(x), ema_decay=0.998
    )
    stock = pyro.optim.Adamax({"lr": 0.002})
    steps = {
        "plain torch": torch_step(copy.deepcopy(model), copy.deepcopy(guide), x),
        "SVI, JointOptim": svi_step(copy.deepcopy(model), copy.deepcopy(guide), x, joint),
        "SVI, pyro.optim.Adamax": svi_step(copy.deepcopy(model), copy.deepcopy(guide), x, stock),
    }
    with pyro.validation_enabled(False):
        times = interleaved(steps, options.repeats, device, warm_up=5)
    print_table(f"One step, batch {options.batch_size}, {device}", times)


if __name__ == "__main__":
    main()
