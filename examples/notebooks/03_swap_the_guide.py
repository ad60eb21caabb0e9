# %% [markdown]
# # Swap the guide
#
# $\log p(x)$ belongs to the model alone. The ELBO lies below it by $\mathrm{KL}(q(z \mid x)
# \,\|\, p(z \mid x))$, and that gap belongs to the guide. Here one trained model is held fixed
# while guides of different kinds are fitted to it; the gap of each tells what the guide costs.

# %%
# %matplotlib inline
import copy
import dataclasses

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vlae.data import load_dataset
from pyro_vlae.guides import GaussianGuide, IAFGuide
from pyro_vlae.infer import JointOptim, marginal_log_likelihood
from pyro_vlae.models import binary_vlae
from pyro_vlae.nn import ResNetArchitecture
from pyro_vlae.training import TrainingSettings, fit

pyro.set_rng_seed(0)
data = load_dataset("digits")
train, test = (  # every other pixel, so that training takes seconds
    dataclasses.replace(split, images=split.images[..., ::2, ::2])
    for split in (data.train, data.test)
)
shape, code_dim = train.image_shape, 16
sizes = ResNetArchitecture(shape, code_dim, channels=(8,), features=64)

# %% [markdown]
# ## The model, trained once
#
# With its Gaussian guide, as usual; the factorized decoder makes the posterior a demanding one.


# %%
def train_both(model, guide, steps: int) -> None:
    optimizer = JointOptim(torch.optim.Adamax, {"lr": 0.01})
    settings = TrainingSettings(max_steps=steps)
    fit(
        model,
        guide,
        train,
        elbo=Trace_ELBO(),
        optimizer=optimizer,
        settings=settings,
        progress=False,
    )


model = binary_vlae(
    architecture=sizes,
    likelihood="bernoulli",
    flow_layers=2,
    flow_hidden_dims=(64, 64),
)
gaussian = GaussianGuide(architecture=sizes)
train_both(model, gaussian, steps=500)

# %% [markdown]
# From here on the model does not change: its parameters need no gradient, so Pyro is not told of
# them.

# %%
model.requires_grad_(False)
fixed_model = model.eval()

# %% [markdown]
# ## Guides for all images
#
# The Gaussian guide goes on for as long as the others are given. `IAFGuide` pushes a Gaussian
# through autoregressive steps that read the image; it starts with the Gaussian guide's encoder.

# %%
train_both(fixed_model, gaussian, steps=300)
encoder_of_gaussian = copy.deepcopy(gaussian.encoder)
iaf = IAFGuide(
    encoder=encoder_of_gaussian,
    layers=2,
    hidden_dims=(64, 64),
    context_dim=32,
    architecture=sizes,
)
train_both(fixed_model, iaf, steps=300)

# %% [markdown]
# A guide need not be a module of this package, nor a class. It samples `z` in the model's plate:

# %%
network = nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], 2 * code_dim))


def linear_guide(x: Tensor) -> None:
    pyro.module("linear_guide", network)
    loc, raw_scale = network(x - 0.5).chunk(2, -1)
    with pyro.plate("images", len(x), dim=-1):
        pyro.sample("z", dist.Normal(loc, raw_scale.exp()).to_event(1))


train_both(fixed_model, linear_guide, steps=300)

# %% [markdown]
# ## Guides for a handful of images
#
# For a few images the guide's parameters can be fitted to these very images, which takes an
# encoder's generalization out of the gap. `AutoNormal` does it from the model alone, given
# nothing but a place to start from:

# %%
few = test.batch(slice(0, 16))


def fit_to_few(guide, steps: int) -> None:
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(
        fixed_model, guide, pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.05 ** (1 / steps)}), elbo
    )
    with pyro.validation_enabled(False):
        for _ in range(steps):
            svi.step(few)


start = init_to_value(values={"z": torch.zeros(len(few), code_dim)})
auto = AutoNormal(fixed_model, init_loc_fn=start, init_scale=0.5)
fit_to_few(auto, steps=300)

# %% [markdown]
# Semi-amortized: the guide proposes, some steps refine. What the encoder says about these images
# is the start of the parameters; here as a plain Pyro guide again.

# %%
with torch.no_grad():
    proposal = gaussian.posterior(few).base_dist


def refined_guide(x: Tensor) -> None:
    loc = pyro.param("refined_loc", proposal.loc)
    scale = pyro.param("refined_scale", proposal.scale, constraint=constraints.positive)
    with pyro.plate("images", len(x), dim=-1):
        pyro.sample("z", dist.Normal(loc, scale).to_event(1))


fit_to_few(refined_guide, steps=50)

# %% [markdown]
# ## The gaps
#
# $\log p(x)$ of the sixteen images by importance sampling, with the IAF guide as the proposal;
# its Monte Carlo error is printed beside it. The ELBO of each guide is a mean over draws of its
# own.

# %%
best = marginal_log_likelihood(fixed_model, iaf, few, num_samples=4096)
print(f"log p(x) = {best.mean_log_prob:.2f} ± {best.mean_monte_carlo_error:.2f} nats per image")


def elbo(guide, draws: int = 1000) -> float:
    estimator = Trace_ELBO(num_particles=draws, vectorize_particles=True, max_plate_nesting=1)
    with torch.no_grad():
        return -estimator.loss(fixed_model, guide, few) / len(few)


GUIDES = {
    "linear, by hand": linear_guide,
    "Gaussian": gaussian,
    "IAF": iaf,
    "AutoNormal, 300 steps": auto,
    "Gaussian, refined in 50 steps": refined_guide,
}
gaps = {name: best.mean_log_prob - elbo(guide) for name, guide in GUIDES.items()}
for name, gap in gaps.items():
    print(f"{name:30} ELBO {best.mean_log_prob - gap:7.2f}, gap {gap:5.2f} nats")

# %%
figure = Figure(figsize=(7, 2.6), layout="constrained")
axes = figure.subplots()
axes.barh(list(gaps), list(gaps.values()), color="#4477aa")
axes.invert_yaxis()
axes.set_xlabel("log p(x) − ELBO, nats per image")
axes.spines[["top", "right"]].set_visible(False)
figure

# %% [markdown]
# The gap has two parts. *Amortization*: one encoder has to serve all images, these among them
# that it has never seen. Fitting to the very images removes it. *Shape*: the posterior is no
# diagonal Gaussian. That is what the fitted Gaussians cannot remove, and what the flow steps are
# for; how much they gain depends on which of the two is the larger part.
