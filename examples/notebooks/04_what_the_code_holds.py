# %% [markdown]
# # What does the code hold?
#
# The paper's lever: what the decoder's window shows is modeled without the code, what it does
# not show has to go into the code. Here the same autoencoder is trained with three windows, and
# the code of each is looked at: how much it holds (the rate), what can be read from it (a linear
# probe), and what it decodes to.

# %%
# %matplotlib inline
import dataclasses

import pyro
import torch
from pyro.infer import Trace_ELBO
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from pyro_vlae.analysis import code_marginals, pixel_influence
from pyro_vlae.data import load_dataset
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import JointOptim, marginal_log_likelihood
from pyro_vlae.models import binary_vlae
from pyro_vlae.nn import ResNetDecoder, ResNetEncoder
from pyro_vlae.plots import (
    plot_code_map,
    plot_pixel_influence,
    plot_rate_distortion,
    plot_samples,
)
from pyro_vlae.training import TrainingSettings, fit

data = load_dataset("digits")
train, test = (  # every other pixel, so that training takes seconds
    dataclasses.replace(split, images=split.images[..., ::2, ::2])
    for split in (data.train, data.test)
)
shape, code_dim = train.image_shape, 16
x_train, x_test = train.batch(slice(None)), test.batch(slice(None))

# %% [markdown]
# ## Three windows
#
# A factorized decoder sees no other pixel at all. `MaskedResNet`, the PixelCNN's network, sees
# one row up for each of its masked layers.

# %%
WINDOWS = {
    "no window": {"likelihood": "bernoulli"},
    "one row": {"masked_layers": 1},
    "three rows": {"masked_layers": 3},
}
models, guides, scores = {}, {}, {}
for name, options in WINDOWS.items():
    pyro.set_rng_seed(0)
    models[name] = binary_vlae(
        code_dim=code_dim,
        image_shape=shape,
        decoder=ResNetDecoder(code_dim, shape, channels=(8,), features=64),
        flow_steps=2,
        flow_hidden_dims=(64, 64),
        **options,
    )
    guides[name] = GaussianGuide(code_dim, shape, ResNetEncoder(shape, channels=(8,), features=64))
    fit(
        models[name],
        guides[name],
        train,
        elbo=Trace_ELBO(),
        optimizer=JointOptim(torch.optim.Adamax, {"lr": 0.01}),
        settings=TrainingSettings(max_steps=400),
        progress=False,
    )
    scores[name] = marginal_log_likelihood(models[name], guides[name], x_test, num_samples=64)

# %% [markdown]
# ## Rate and distortion
#
# The bound is rate plus distortion. The larger the window, the less is left to the code: the
# points move to the left.

# %%
for name, score in scores.items():
    summary = score.summary()
    print(f"{name:12} rate {summary['kl_nats']:5.2f}, NLL {summary['nll_nats']:.2f} nats")
plot_rate_distortion({name: score.summary() for name, score in scores.items()})

# %% [markdown]
# Which of the visible pixels the decoder really uses: the change of a pixel's log-odds when an
# earlier one flips. What the network can see is outlined.

# %%
with torch.no_grad():
    model, guide = models["three rows"].eval(), guides["three rows"].eval()
    likelihood = model.likelihood(model.decoder(guide.posterior(x_test[:100]).mean))
plot_pixel_influence(pixel_influence(likelihood, x_test[:100]))

# %% [markdown]
# ## A linear probe
#
# Logistic regression from the posterior means to the digit, on the training images; its accuracy
# on the test images tells how much of the *class* lies open in the code. The pixels themselves
# are the comparison: a code of sixteen numbers, most of which hold little, against all pixels.


# %%
def probe(features_train: Tensor, features_test: Tensor) -> float:
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(features_train.numpy(), train.labels.numpy())
    return classifier.score(features_test.numpy(), test.labels.numpy())


commonest = (test.labels == train.labels.mode().values).float().mean()
print(f"{'always the commonest digit':28} {commonest:6.1%}")
for name, guide in guides.items():
    codes = (code_marginals(guide, x).loc for x in (x_train, x_test))
    print(f"{'code, ' + name:28} {probe(*codes):6.1%}")
print(f"{'pixels':28} {probe(x_train.flatten(1), x_test.flatten(1)):6.1%}")

# %% [markdown]
# The codes on their two principal components:

# %%
plot_code_map(code_marginals(guides["one row"], x_test).loc, test.labels)

# %% [markdown]
# ## Decompressions
#
# What is the same in all decompressions of an image is in its code; what differs is not. Each
# row: an image, and seven decompressions of it, two rows for each window.


# %%
def decompress(name: str, x: Tensor, times: int) -> Tensor:
    model, guide = models[name], guides[name]
    with torch.no_grad():
        z = guide.posterior(x).sample((times,))
        return model.likelihood(model.decoder(z)).sample()


pyro.set_rng_seed(0)
rows = []
for name in models:
    chosen = x_test[[0, 7]]
    rows.append(torch.cat([chosen[None], decompress(name, chosen, 7)]).transpose(0, 1))
plot_samples(torch.cat(rows).flatten(0, 1), "From above: " + ", ".join(models))

# %% [markdown]
# ## Interpolation
#
# Between two codes a straight line leaves the region where a flow prior has its mass. The flow's
# noise is standard normal, so one walks there: code to noise, along the line, and back.
# Neighboring pictures share their random numbers, so that what changes is what the code changes.

# %%
model, guide = models["one row"], guides["one row"]
flow = model.prior.transforms


def to_noise(z: Tensor) -> Tensor:
    for step in flow:
        z = step(z)
    return z


def to_code(noise: Tensor) -> Tensor:
    for step in reversed(flow):
        noise = step.inv(noise)
    return noise


pictures = []
with torch.no_grad():
    for first, last in ((0, 7), (3, 11), (5, 2)):
        ends = to_noise(guide.posterior(x_test[[first, last]]).mean)
        codes = to_code(torch.lerp(ends[0], ends[1], torch.linspace(0, 1, 8)[:, None]))
        for z in codes:
            pyro.set_rng_seed(0)
            pictures.append(model.likelihood(model.decoder(z)).sample())
plot_samples(torch.stack(pictures), "From the code of one image to that of another")
