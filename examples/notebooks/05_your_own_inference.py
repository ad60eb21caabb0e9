# %% [markdown]
# # Your own inference
#
# Model and guide are Pyro programs, so all of Pyro's inference works on them: other bounds,
# conditioning, importance resampling, Hamiltonian Monte Carlo. This notebook tries five methods on
# one small model.

# %%
# %matplotlib inline
import warnings

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import HMC, MCMC, RenyiELBO
from small_digits import SMALL_FLOW, load_small_digits, small_architecture, train_quickly
from torch import Tensor

from pyro_vlae.analysis import to_inference_data
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import marginal_log_likelihood
from pyro_vlae.models import binary_vlae
from pyro_vlae.plots import plot_samples

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ announces its next version
    import arviz

pyro.set_rng_seed(0)
train, test = load_small_digits()
shape, code_dim = train.image_shape, 8
architecture = small_architecture(code_dim)

# %% [markdown]
# ## Training on another bound
#
# `RenyiELBO` with `alpha=0` is the importance-weighted bound (Burda et al., "Importance Weighted
# Autoencoders", 2016, arXiv:1509.00519), which is tighter than the ELBO because it averages the
# weights of several codes (particles) per image. It can replace `Trace_ELBO` in `SVI` and in `fit`.
# The particles are vectorized: all networks accept leading dimensions.

# %%
model = binary_vlae(architecture=architecture, masked_layers=1, **SMALL_FLOW)
guide = GaussianGuide(architecture=architecture)
bound = RenyiELBO(alpha=0, num_particles=4, vectorize_particles=True, max_plate_nesting=1)
train_quickly(model, guide, train, steps=400, elbo=bound)
model.eval().requires_grad_(False)
guide.eval().requires_grad_(False)
x = test.batch(slice(0, 64))

# %% [markdown]
# The bound grows with the number of particles, from the ELBO toward $\log p(x)$:

# %%
for particles in (1, 4, 16, 64):
    bound = RenyiELBO(0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    values = [-bound.loss(model, guide, x) / len(x) for _ in range(4)]
    print(f"{particles:3} particles: {np.mean(values):7.2f}")
score = marginal_log_likelihood(model, guide, x, num_samples=512)
print(f"marginal_log_likelihood, 512 samples: {score.mean_log_prob:.2f}")

# %% [markdown]
# ## Conditioning on a code
#
# `poutine.condition` fixes a site. With the code fixed, the model samples images that share it.

# %%
z = guide.posterior(x[:3]).mean.repeat_interleave(8, 0)
with torch.no_grad():
    siblings = poutine.condition(model, data={"z": z})(batch_size=len(z))
plot_samples(siblings, "Each row: images sampled from one code")

# %% [markdown]
# ## In-painting: what was in the lower half?
#
# `pyro_vlae.infer.inpaint` fills in any unknown pixels. Here is a simple case by hand.
#
# Suppose that only the upper rows of an image are known. Pixels are modeled in raster order, so
# $p(x_{upper} \mid z)$ is the product over the upper rows, without an integral over the lower ones.
# As a Pyro program: sample the code from the prior and add the upper half as a factor.

# %%
known_rows = shape[1] // 2
known = (torch.arange(shape[1]) < known_rows)[:, None].expand(shape[1:])


def upper_half_model(x: Tensor) -> Tensor:
    with pyro.plate("images", len(x), dim=-1):
        z = pyro.sample("z", model.prior())
        log_prob = model.likelihood(model.decoder(z)).pixel_log_prob(x)
        pyro.factor("upper_half", log_prob[..., :known_rows, :].sum((-2, -1)))
    return z


# %% [markdown]
# Importance resampling: sample codes from a proposal, weight them by the ratio of model to
# proposal, and resample them by their weights. The guide has never seen half an image, so we use
# the prior as the proposal. Each image has its own weights, and its effective sample size (how
# many samples matter) shows whether there are enough of them.

# %%
halves = x[:4]
particles = 4000
with torch.no_grad(), pyro.plate("particles", particles, dim=-2):
    trace = poutine.trace(upper_half_model).get_trace(halves)
# The proposal is the prior: its log-density cancels, and only the factor remains.
log_weight = trace.nodes["upper_half"]["fn"].log_prob(trace.nodes["upper_half"]["value"])
weight = log_weight.softmax(0)
print("effective sample sizes:", *(f"{n:.0f}" for n in 1 / weight.square().sum(0)))

# %% [markdown]
# For each resampled code, `complete` samples the lower half from its exact conditional given the
# code and the upper half. The first column is the true image, the second its known part.

# %%
rows = []
for i in range(len(halves)):
    chosen = trace.nodes["z"]["value"][torch.multinomial(weight[:, i], 6, replacement=True), i]
    likelihood = model.likelihood(model.decoder(chosen))
    completed = likelihood.complete(halves[i].expand(6, *shape), known)
    rows += [halves[i : i + 1], halves[i : i + 1] * known, completed]
plot_samples(torch.cat(rows), "Image, its upper half, six completions")

# %% [markdown]
# ## Hamiltonian Monte Carlo over the code of one image
#
# The guide is a Gaussian. What does the true posterior $p(z \mid x)$ look like? `model(x)` observes
# the image, so `z` is the only latent variable. Four copies of the image in the plate make four
# chains in one run (they share the step size and are accepted or rejected together); they start
# from samples of the guide. Use `NUTS` instead of `HMC` if you have the time.

# %%
image = x[:1]
copies = image.repeat(4, 1, 1, 1)
mcmc = MCMC(
    HMC(model, step_size=0.2, num_steps=8),
    num_samples=300,
    warmup_steps=100,
    initial_params={"z": guide.posterior(copies).sample()},
    disable_progbar=True,
)
with pyro.validation_enabled(False):
    mcmc.run(copies)
chains = mcmc.get_samples()["z"].transpose(0, 1)  # (chain, sample, code_dim)

# %% [markdown]
# These are ArviZ's diagnostics: R-hat near 1 means that the chains agree; the effective sample size
# is the number of independent samples that they are worth. The last columns are the guide's mean
# and standard deviation.

# %%
posterior = arviz.convert_to_dataset({"z": chains.numpy()})
table = arviz.summary(posterior, kind="all", round_to=2)[
    ["mean", "sd", "ess_bulk", "ess_tail", "r_hat"]
]
q = guide.posterior(image).base_dist
table["guide_mean"] = q.loc[0].numpy().round(2)
table["guide_sd"] = q.scale[0].numpy().round(2)
print(table.to_string())

# %% [markdown]
# A guide fitted by the ELBO tends to be narrower than the posterior; the importance-weighted bound
# rewards a guide that covers it. Compare `sd` and `guide_sd`. The chains also show correlations,
# which a diagonal Gaussian cannot represent:

# %%
correlation = np.corrcoef(chains.flatten(0, 1).T.numpy()) - np.eye(code_dim)
a, b = np.unravel_index(np.abs(correlation).argmax(), correlation.shape)
print(f"strongest correlation: {correlation[a, b]:+.2f}, of dimensions {a} and {b}")

# %% [markdown]
# ## The same by importance resampling
#
# `to_inference_data` samples codes from the guide, resamples them by their importance weights, and
# returns them in ArviZ's format with decompressions and diagnostics, for many images at once. Its
# means should agree with those of the chains to within the accuracy that the effective sample sizes
# allow.

# %%
resampled = to_inference_data(model, guide, image, num_samples=4096, num_codes=800)
means = resampled["posterior"]["z"].mean(("chain", "draw")).values[0]
table["resampled_mean"] = means.round(2)
print(
    "effective sample size:", float(resampled["sample_stats"]["effective_sample_size"][0].round())
)
print(table[["mean", "sd", "resampled_mean"]].to_string())
