# %% [markdown]
# # What does the code hold?
#
# The paper's main idea is that the decoder models whatever its window shows without the code;
# everything else must be in the code. Here we train the same autoencoder with three windows and
# look at each code: how much information it carries (the rate), what can be predicted from it (a
# linear probe), and what it decodes to.

# %%
# %matplotlib inline

import pyro
import torch
from small_digits import SMALL_FLOW, load_small_digits, small_architecture, train_quickly

from pyro_vlae.analysis import (
    code_marginals,
    interpolate_images,
    linear_probe,
    pixel_influence,
)
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import marginal_log_likelihood, reconstruct
from pyro_vlae.models import binary_vlae
from pyro_vlae.plots import (
    plot_code_map,
    plot_interpolations,
    plot_pixel_influence,
    plot_rate_distortion,
    plot_rows,
)

train, test = load_small_digits()
architecture = small_architecture()
x_train, x_test = train.batch(slice(None)), test.batch(slice(None))

# %% [markdown]
# ## Three windows
#
# A factorized decoder sees no other pixel. `MaskedResNet`, the PixelCNN's network, sees one row
# above the pixel for each masked layer.

# %%
WINDOWS = {
    "no window": {"likelihood": "bernoulli"},
    "one row": {"masked_layers": 1},
    "three rows": {"masked_layers": 3},
}
models, guides, scores = {}, {}, {}
for name, options in WINDOWS.items():
    pyro.set_rng_seed(0)
    models[name] = binary_vlae(architecture=architecture, **SMALL_FLOW, **options)
    guides[name] = GaussianGuide(architecture=architecture)
    train_quickly(models[name], guides[name], train, steps=400)
    scores[name] = marginal_log_likelihood(models[name], guides[name], x_test, num_samples=64)

# %% [markdown]
# ## Rate and distortion
#
# The negative ELBO is rate plus distortion. The larger the window, the less is left to the code:
# the points move to the left.

# %%
for name, score in scores.items():
    summary = score.summary()
    print(f"{name:12} rate {summary['kl_nats']:5.2f}, NLL {summary['nll_nats']:.2f} nats")
plot_rate_distortion(
    {name: score.summary() for name, score in scores.items()}, title="Three windows, 14x14 digits"
)

# %% [markdown]
# Which pixels of its window does the decoder use? The plot shows how much a pixel's log-odds change
# when an earlier pixel is flipped; the outline is the window.

# %%
with torch.no_grad():
    model, guide = models["three rows"].eval(), guides["three rows"].eval()
    likelihood = model.likelihood(model.decoder(guide.posterior(x_test[:100]).mean))
plot_pixel_influence(pixel_influence(likelihood, x_test[:100]), title="Window of three rows")

# %% [markdown]
# ## A linear probe
#
# We fit a logistic regression from the posterior means to the digit on the training images; its
# accuracy on the test images shows how easily the class can be read off the code. The baseline sees
# all pixels instead of the sixteen dimensions of a code, most of which carry little information.

# %%
features = {"pixels": (x_train.flatten(1), x_test.flatten(1))}
for name, guide in guides.items():
    features[f"code, {name}"] = tuple(code_marginals(guide, x).loc for x in (x_train, x_test))
for name, (on_train, on_test) in features.items():
    probe = linear_probe(on_train, train.labels, on_test, test.labels)
    print(f"{name:20} {probe.accuracy:6.1%} ± {probe.standard_error:.1%}")

# %% [markdown]
# The codes projected to their first two principal components:

# %%
codes = code_marginals(guides["one row"], x_test).loc
plot_code_map(codes, test.labels, title="Codes of test digits, window of one row")

# %% [markdown]
# ## Decompressions
#
# What all decompressions of an image have in common is in its code; what differs between them is
# not. Each row shows an image, five decompressions of it, and one at temperature 0, where every
# pixel takes its most probable value.

# %%
pyro.set_rng_seed(0)
rows = {}
for digit in (2, 8):
    image = x_test[test.labels == digit][:1]
    for name, model in models.items():
        several = reconstruct(model, guides[name], image, num_samples=5)[:, 0]
        mode = reconstruct(model, guides[name], image, mean=True, temperature=0)
        rows[f"{digit}, {name}"] = torch.cat([image, several, mode])
plot_rows(rows, "Image, five decompressions, and one at temperature 0")

# %% [markdown]
# ## Interpolation
#
# A straight line between two codes leaves the region where the prior has its mass.
# `interpolate_images` therefore maps both codes to the flow's noise, which is standard normal, and
# rotates one into the other (spherical interpolation). All images of a path are sampled with the
# same random numbers, so that they differ only because their codes do.

# %%
ends = x_test[[0, 3, 5, 7, 11, 2]]  # three starts, three ends
path = interpolate_images(models["one row"], guides["one row"], ends, count=8)
plot_interpolations(ends, path, "Window of one row: from the code of the left image to the right")
