# %% [markdown]
# # A VLAE in ten minutes
#
# A VLAE is a variational autoencoder whose decoder is autoregressive over a small *window* of
# pixels. The decoder models whatever the window shows by itself; everything else must be in the
# code. This notebook builds a VLAE as a Pyro program: data, model, guide, training, score, and
# samples.

# %%
# %matplotlib inline
import dataclasses

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO

from pyro_vlae.data import load_dataset
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import marginal_log_likelihood
from pyro_vlae.models import binary_vlae, load_pretrained
from pyro_vlae.nn import ResNetArchitecture
from pyro_vlae.plots import plot_reconstructions, plot_samples

pyro.set_rng_seed(0)

# %% [markdown]
# ## Data
#
# `digits` comes with scikit-learn. We keep every other pixel, so that training takes seconds.
# `batch` returns images in the form that the model expects: floats 0 and 1, where ink is 1.

# %%
data = load_dataset("digits")
train, test = (
    dataclasses.replace(split, images=split.images[..., ::2, ::2])
    for split in (data.train, data.test)
)
print(data.description, "-", len(train), "images to train on,", len(test), "to test")
plot_samples(train.batch(slice(0, 16)), "Training images")

# %% [markdown]
# ## Model and guide
#
# The model is $p(x, z)$. `binary_vlae` builds the paper's: an autoregressive flow as the prior of
# the code, a ResNet decoder that returns four feature maps, and a PixelCNN that reads them. The
# guide is $q(z \mid x)$; its encoder mirrors the decoder, so both are built from one architecture.
# Everything is small here, and with two masked layers a pixel sees two rows up.

# %%
architecture = ResNetArchitecture(train.image_shape, code_dim=16, channels=(8,), features=64)
model = binary_vlae(
    architecture=architecture, masked_layers=2, flow_layers=2, flow_hidden_dims=(64, 64)
)
guide = GaussianGuide(architecture=architecture)

# %% [markdown]
# ## Training
#
# This is plain Pyro, as in its tutorials.

# %%
svi = SVI(model, guide, pyro.optim.Adamax({"lr": 0.01}), Trace_ELBO())
for step in range(401):
    loss = svi.step(train.batch(torch.randint(len(train), (64,))))
    if step % 100 == 0:
        print(f"step {step:3}: {loss / 64:6.1f} nats per image")

# %% [markdown]
# Model and guide are both modules and Pyro programs. A trace shows the sites: the code `z` and the
# image `x`, both in a plate of images.

# %%
x = test.batch(slice(0, 3))
trace = poutine.trace(poutine.block(model, hide_types=["param"])).get_trace(x)
trace.compute_log_prob()
print(trace.format_shapes())

# %% [markdown]
# ## Score
#
# The ELBO is a lower bound. Importance sampling with the guide as the proposal estimates
# $\log p(x)$ itself, image by image, and reports how well it worked: if the effective sample size
# is near one, or Pareto k is above 0.7 for many images, you need more samples or a better guide.

# %%
score = marginal_log_likelihood(model, guide, test.batch(slice(None)), num_samples=64)
for name, value in score.summary().items():
    print(f"{name:30} {value:8.3f}")

# %% [markdown]
# ## Pictures
#
# To generate images, run the model without an observation. A *decompression* is
# $z \sim q(z \mid x)$, $x' \sim p(x \mid z)$: run the model on the guide's codes, again without an
# observation, which is what Pyro's `Predictive` does. After a few seconds of training the code
# keeps the silhouette, but not always the digit.

# %%
plot_samples(model(batch_size=32), "Samples of the small model")

# %%
x = test.batch(slice(0, 16))
decompress = Predictive(poutine.uncondition(model), guide=guide, num_samples=1)
with torch.no_grad():
    again = decompress(x)["x"][0]
plot_reconstructions(x, again, "Test images and one decompression each")

# %% [markdown]
# ## The paper's size, already trained
#
# The package ships weights of the same program at the paper's size, trained on static MNIST;
# `model.card` records for how long. To avoid a download, we use the model's own samples instead of
# test images: we encode them and decompress their codes. The shape is preserved; the noise along
# its edges is new.

# %%
model, guide = load_pretrained("static-mnist")
card = model.card["results"]
print(f"trained on {card['train_images_seen']:,} images, {card['train_seconds'] / 60:.0f} minutes")
print(f"test NLL {card['nll_nats']:.2f} nats, rate of the code {card['kl_nats']:.2f} nats")

# %%
with torch.no_grad():
    x = model(batch_size=32)
    again = Predictive(poutine.uncondition(model), guide=guide, num_samples=1)(x)["x"][0]
plot_reconstructions(x, again, "Samples of the MNIST model and one decompression each")

# %% [markdown]
# The next notebooks swap the [prior](02_swap_the_prior) and the [guide](03_swap_the_guide), ask
# [what the code holds](04_what_the_code_holds), and show [other kinds of
# inference](05_your_own_inference).
