# %% [markdown]
# # Swap the prior
#
# A prior is a module that returns a distribution over codes, with event shape `(code_dim,)`, when
# it is called. `FlowPrior` and `StandardNormalPrior` are part of the package, `FlowPrior` takes any
# invertible Pyro transforms, and a prior of your own is a class of a few lines. Why swap it? The
# rate measures how far the codes are from the prior, so a prior that fits the codes better lowers
# the bound. Here are six priors in the same model, compared on the same test images.

# %%
# %matplotlib inline
import copy
import time

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import affine_autoregressive, spline_autoregressive
from small_digits import load_small_digits, small_architecture, train_quickly
from torch import Tensor, nn

from pyro_vlae.analysis import compare_models
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import marginal_log_likelihood
from pyro_vlae.models import VLAE, FlowPrior, StandardNormalPrior, binary_vlae
from pyro_vlae.plots import plot_rows

train, test = load_small_digits()
code_dim = 16
architecture = small_architecture(code_dim)

# %% [markdown]
# ## Two priors of our own
#
# A mixture of Gaussians with learned means, scales, and weights:


# %%
class MixturePrior(nn.Module):
    def __init__(self, code_dim: int, components: int = 10) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.randn(components, code_dim))
        self.raw_scale = nn.Parameter(torch.zeros(components, code_dim))
        self.logits = nn.Parameter(torch.zeros(components))

    def forward(self) -> dist.TorchDistribution:
        parts = dist.Normal(self.loc, self.raw_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), parts)


# %% [markdown]
# A VampPrior (Tomczak and Welling, "VAE with a VampPrior", 2018, arXiv:1705.07120): a mixture of
# the *posteriors* of learned pseudo-images. It needs the guide's `posterior`; we pass the bound
# method, so that the guide does not become a submodule of the model.


# %%
class VampPrior(nn.Module):
    def __init__(self, guide: GaussianGuide, images: Tensor) -> None:
        super().__init__()
        self.posterior = guide.posterior
        self.pseudo_images = nn.Parameter(images.clone())

    def forward(self) -> dist.TorchDistribution:
        parts = self.posterior(self.pseudo_images)
        weights = torch.zeros(len(self.pseudo_images), device=self.pseudo_images.device)
        return dist.MixtureSameFamily(dist.Categorical(logits=weights), parts)


# %% [markdown]
# ## All six
#
# Each prior is built for a guide, though only the VampPrior uses it. The transforms of a
# `FlowPrior` map codes to noise, so that scoring a code takes one parallel pass.

# %%
PRIORS = {
    "standard normal": lambda guide: StandardNormalPrior(code_dim),
    "mean-only flow": lambda guide: FlowPrior(code_dim, layers=2, hidden_dims=(64, 64)),
    "affine flow": lambda guide: FlowPrior(
        code_dim, transforms=[affine_autoregressive(code_dim, [64, 64]) for _ in range(2)]
    ),
    "spline flow": lambda guide: FlowPrior(
        code_dim,
        transforms=[spline_autoregressive(code_dim, [64, 64], count_bins=4) for _ in range(2)],
    ),
    "mixture": lambda guide: MixturePrior(code_dim),
    "VampPrior": lambda guide: VampPrior(guide, train.batch(slice(0, 50))),
}

# %% [markdown]
# We train one model with a standard normal prior, replace the prior by each of the six, and train
# for the same number of further steps. The decoder is the factorized one of an ordinary VAE: its
# code holds more information, so the prior matters more. (`likelihood="pixelcnn"` makes it a VLAE.)


# %%
pyro.set_rng_seed(0)
first_guide = GaussianGuide(architecture=architecture)
first_model = binary_vlae(architecture=architecture, prior="normal", likelihood="bernoulli")
train_quickly(first_model, first_guide, train, steps=500)

models, scores = {}, {}
for name, make_prior in PRIORS.items():
    pyro.set_rng_seed(0)
    start = time.perf_counter()
    guide = copy.deepcopy(first_guide)
    decoder, likelihood = copy.deepcopy((first_model.decoder, first_model.likelihood))
    models[name] = VLAE(make_prior(guide), decoder, likelihood)
    train_quickly(models[name], guide, train, steps=200)
    x = test.batch(slice(None))
    scores[name] = marginal_log_likelihood(models[name], guide, x, num_samples=64)
    rate = scores[name].kl.mean()
    print(f"{name:16} rate {rate:5.2f} nats, {time.perf_counter() - start:3.0f} s")

# %% [markdown]
# ## Which is best?
#
# `compare_models` compares the models image by image. Images differ from each other far more than
# models do, so the standard error of a paired difference is much smaller than that of either mean.
# A difference below two standard errors is not significant. Since training was short, this shows
# how quickly a prior helps, not how good it is after full training. The VampPrior has a head start:
# its components are posteriors of real images from the first step.

# %%
print(compare_models(scores))

# %% [markdown]
# ## Samples

# %%
pyro.set_rng_seed(1)
with torch.no_grad():
    rows = {name: model(batch_size=8) for name, model in models.items()}
plot_rows(rows, "Samples of the small model under each prior")
