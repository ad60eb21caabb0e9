# %% [markdown]
# # Swap the guide
#
# $\log p(x)$ depends on the model alone. The ELBO is smaller by $\mathrm{KL}(q(z \mid x) \,\|\,
# p(z \mid x))$, a gap that depends on the guide. Here we hold a trained model fixed and fit
# different guides to it; the gap of each guide is the price of using it.

# %%
# %matplotlib inline
import copy

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from small_digits import SMALL_FLOW, load_small_digits, small_architecture, train_quickly
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vlae.guides import GaussianGuide, IAFGuide
from pyro_vlae.infer import marginal_log_likelihood
from pyro_vlae.models import binary_vlae

pyro.set_rng_seed(0)
train, test = load_small_digits()
shape, code_dim = train.image_shape, 16
architecture = small_architecture(code_dim)

# %% [markdown]
# ## The model, trained once
#
# We train it with its Gaussian guide, as usual. We choose a factorized decoder, because it makes
# the posterior hard to approximate.

# %%
model = binary_vlae(architecture=architecture, likelihood="bernoulli", **SMALL_FLOW)
gaussian = GaussianGuide(architecture=architecture)
train_quickly(model, gaussian, train, steps=500)

# %% [markdown]
# From here on the model is fixed: its parameters do not require gradients, so they are not
# registered with Pyro.

# %%
model.requires_grad_(False)
fixed_model = model.eval()

# %% [markdown]
# ## Guides for all images
#
# The Gaussian guide is trained for the same number of further steps as the others. `IAFGuide`
# transforms a Gaussian by autoregressive layers that also depend on the image; here it starts with
# a copy of the Gaussian guide's encoder.

# %%
train_quickly(fixed_model, gaussian, train, steps=300)
iaf = IAFGuide(
    architecture=architecture,
    encoder=copy.deepcopy(gaussian.encoder),
    layers=2,
    hidden_dims=(64, 64),
    context_dim=32,
)
train_quickly(fixed_model, iaf, train, steps=300)

# %% [markdown]
# A guide need not come from this package or be a class. It only has to sample `z` in the model's
# plate:

# %%
network = nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], 2 * code_dim))


def linear_guide(x: Tensor) -> None:
    pyro.module("linear_guide", network)
    loc, raw_scale = network(x - 0.5).chunk(2, -1)
    with pyro.plate("images", len(x), dim=-1):
        pyro.sample("z", dist.Normal(loc, raw_scale.exp()).to_event(1))


train_quickly(fixed_model, linear_guide, train, steps=300)

# %% [markdown]
# ## Guides for a handful of images
#
# So far an encoder computes the posterior of any image (amortized inference). A guide can instead
# have its own parameters for each of a few images, which removes the encoder's generalization error
# from the gap. Pyro's `AutoNormal` needs nothing but the model and a starting point:

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
# Semi-amortized inference starts from the encoder's output for these images and refines it with a
# few optimizer steps, again as a plain Pyro guide.

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
# We estimate $\log p(x)$ of the sixteen images by importance sampling with the IAF guide as the
# proposal, and print its Monte Carlo error. The ELBO of each guide is a mean over its own samples.

# %%
best = marginal_log_likelihood(fixed_model, iaf, few, num_samples=4096)
print(f"log p(x) = {best.mean_log_prob:.2f} ± {best.mean_monte_carlo_error:.2f} nats per image")


def elbo(guide, samples: int = 1000) -> float:
    estimator = Trace_ELBO(num_particles=samples, vectorize_particles=True, max_plate_nesting=1)
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
# The gap has two parts. *Amortization*: one encoder serves all images, including these test images,
# which it has never seen. Fitting a guide to the images themselves removes this part. *Shape*: the
# true posterior is not a diagonal Gaussian. A fitted Gaussian cannot remove this part; a flow can.
#
# With a thousand training images the encoder generalizes poorly, so amortization is the larger part
# here: the guides that were fitted to the sixteen images come closest, although their shape is the
# simplest, and the flow, which is amortized too, gains nothing over the Gaussian. To see shape
# matter, remove amortization from both sides, that is, fit the flow to these images as well:

# %%
own_iaf = copy.deepcopy(iaf)
fit_to_few(own_iaf, steps=100)
gap = best.mean_log_prob - elbo(own_iaf)
print(f"{'IAF, fitted in 100 steps':30} ELBO {best.mean_log_prob - gap:7.2f}, gap {gap:5.2f} nats")
