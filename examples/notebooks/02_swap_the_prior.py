# %% [markdown]
# # Swap the prior
#
# A prior is a module that returns a distribution over codes, event shape `(code_dim,)`, when it
# is called. `FlowPrior` and `StandardNormalPrior` come with the package, any Pyro transform fits
# into `FlowPrior`, and one's own is a class of a few lines. Here are six in the same model,
# compared on the same test images.

# %%
# %matplotlib inline
import copy
import dataclasses
import time

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import affine_autoregressive, spline_autoregressive
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from pyro_vlae.analysis import compare_models
from pyro_vlae.data import load_dataset
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import JointOptim, marginal_log_likelihood
from pyro_vlae.models import VLAE, FlowPrior, StandardNormalPrior, binary_vlae
from pyro_vlae.nn import ResNetDecoder, ResNetEncoder
from pyro_vlae.plots import plot_samples
from pyro_vlae.training import TrainingSettings, fit

data = load_dataset("digits")
train, test = (  # every other pixel, so that training takes seconds
    dataclasses.replace(split, images=split.images[..., ::2, ::2])
    for split in (data.train, data.test)
)
shape, code_dim = train.image_shape, 16

# %% [markdown]
# ## Two of one's own
#
# A mixture of Gaussians, its means, scales and weights learnt:


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
# A VampPrior (Tomczak and Welling, 2018, arXiv:1705.07120): the mixture of the *posteriors* of
# some pseudo-images, which are learnt. It reads the guide, so it takes the guide's `posterior`;
# as a bound method, so that the guide does not become a part of the model.


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
# Each is made for a guide; only the VampPrior looks at it. The transforms of a `FlowPrior` go
# from the code to the noise: scoring a code is one parallel pass whichever they are.

# %%
PRIORS = {
    "standard normal": lambda guide: StandardNormalPrior(code_dim),
    "mean-only flow": lambda guide: FlowPrior(code_dim, steps=2, hidden_dims=(64, 64)),
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
# All six start from one and the same trained model with the standard normal prior, get the prior
# in place of its own, and are trained on for equally long. The decoder is the factorized one of
# an ordinary VAE here: its code holds more, so that the prior matters more.
# (`likelihood="pixelcnn"` makes it a VLAE.)


# %%
def train_further(model: nn.Module, guide: nn.Module, steps: int) -> None:
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


pyro.set_rng_seed(0)
first_guide = GaussianGuide(code_dim, shape, ResNetEncoder(shape, channels=(8,), features=64))
first_model = binary_vlae(
    code_dim=code_dim,
    image_shape=shape,
    prior="normal",
    decoder=ResNetDecoder(code_dim, shape, channels=(8,), features=64),
    likelihood="bernoulli",
)
train_further(first_model, first_guide, steps=500)

models, scores = {}, {}
for name, make_prior in PRIORS.items():
    pyro.set_rng_seed(0)
    start = time.perf_counter()
    guide = copy.deepcopy(first_guide)
    decoder, likelihood = copy.deepcopy((first_model.decoder, first_model.likelihood))
    models[name] = VLAE(make_prior(guide), decoder, likelihood)
    train_further(models[name], guide, steps=200)
    x = test.batch(slice(None))
    scores[name] = marginal_log_likelihood(models[name], guide, x, num_samples=64)
    rate = scores[name].kl.mean()
    print(f"{name:16} rate {rate:5.2f} nats, {time.perf_counter() - start:3.0f} s")

# %% [markdown]
# ## Which is best?
#
# `compare_models` pairs the models image by image: images differ from each other far more than
# models do, so that the error of a difference is much smaller than that of either mean. A
# difference of less than two errors says nothing. And all were trained further for the same short
# time: what is compared is how soon these priors help, not how good they would be in the end. The
# VampPrior has a head start, its components are posteriors of real images from the first step on.

# %%
print(compare_models(scores))

# %% [markdown]
# ## Samples
#
# One row for each prior, in the order above.

# %%
pyro.set_rng_seed(1)
with torch.no_grad():
    rows = [model(batch_size=8) for model in models.values()]
plot_samples(torch.cat(rows), "From above: " + ", ".join(models))
