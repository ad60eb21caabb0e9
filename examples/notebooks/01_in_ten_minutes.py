# %% [markdown]
# # A VLAE in ten minutes
#
# A VLAE is a variational autoencoder whose decoder is autoregressive over a small *window* of
# pixels. The decoder models whatever the window shows by itself; everything else must be in the
# code. This notebook first looks at a trained model, then builds and trains a small one: data,
# model, guide, training, score, and samples, all as a Pyro program.

# %%
# %matplotlib inline
import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from small_digits import SMALL_FLOW, load_small_digits, small_architecture

from pyro_vlae.analysis import nearest_neighbors
from pyro_vlae.data import load_dataset
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import encode, marginal_log_likelihood, reconstruct
from pyro_vlae.models import binary_vlae, load_pretrained
from pyro_vlae.plots import plot_groups, plot_reconstructions, plot_samples

pyro.set_rng_seed(0)

# %% [markdown]
# ## A trained model
#
# The package ships weights at the paper's size, trained on static MNIST. `model` is $p(x, z)$,
# `guide` is $q(z \mid x)$, and `model.card` records how they were trained. The NLL is
# $-\log p(x)$; the rate, $\mathrm{KL}(q(z \mid x) \,\|\, p(z))$, is the information in the code.

# %%
model, guide = load_pretrained("static-mnist")
card = model.card["results"]
print(f"trained on {card['train_images_seen']:,} images, {card['train_seconds'] / 60:.0f} minutes")
print(f"test NLL {card['nll_nats']:.2f} nats, rate of the code {card['kl_nats']:.2f} nats")

# %%
with torch.no_grad():
    x = model(batch_size=16)
plot_samples(x, "Samples of the model trained on static MNIST")

# %% [markdown]
# ## What the code keeps, and what it loses
#
# `reconstruct` encodes images and decodes the codes. (To avoid a download, these are the samples
# from above.) Two decompressions of an image share its shape and differ in the noise along its
# edges. At temperature 0 each pixel takes its most probable value given the code and the pixels
# before it: the noise is gone, and what remains is what the code determines.

# %%
versions = {"image": x[:8]}
versions["sample 1"], versions["sample 2"] = reconstruct(model, guide, x[:8], num_samples=2)
versions["temperature 0"] = reconstruct(model, guide, x[:8], temperature=0)
plot_groups(versions, "Images, two decompressions, and one at temperature 0", groups_per_row=2)

# %% [markdown]
# ## Nearest neighbors
#
# The code ignores noise, so images with similar codes look alike even where their pixels differ.
# For each of 300 digits from another source (scikit-learn's scans, which the model has never seen),
# we find its nearest neighbor among the others, once by pixels and once by codes, and count how
# often image and neighbor are the same digit. On these few clean scans the two should be equal to
# within the error. On 1,000 test images of the noisier static MNIST (a download),
# `pyro-vlae figures static-mnist` finds the same digit clearly more often by codes.

# %%
digits = load_dataset("digits").test
x = digits.batch(slice(None))
features = {"pixels": x.flatten(1), "codes": encode(guide, x, mean=True)}
neighbors = {}
for name, values in features.items():
    nearest = nearest_neighbors(values)
    hits = (digits.labels[nearest] == digits.labels).double()
    error = hits.std() / len(hits) ** 0.5
    print(f"nearest neighbor by {name}: same digit {hits.mean():.1%} ± {error:.1%}")
    neighbors[f"by {name}"] = x[nearest[:8]]
plot_groups({"image": x[:8], **neighbors}, "Images and their nearest neighbors")

# %% [markdown]
# ## Data
#
# Now a model of our own, on the same digits. `small_digits` (a file beside the notebooks) keeps
# every other pixel, so that training takes seconds. `batch` returns images in the form that the
# model expects: floats 0 and 1, where ink is 1.

# %%
train, test = load_small_digits()
print(len(train), "images to train on,", len(test), "to test")
plot_samples(train.batch(slice(0, 16)), "Training images")

# %% [markdown]
# ## Model and guide
#
# The model is $p(x, z)$. `binary_vlae` builds the paper's: an autoregressive flow as the prior of
# the code, a ResNet decoder that returns four feature maps, and a PixelCNN that reads them. The
# guide is $q(z \mid x)$; its encoder mirrors the decoder, so both are built from one architecture.
# Everything is small here, and with two masked layers a pixel sees two rows up.

# %%
architecture = small_architecture()
model = binary_vlae(architecture=architecture, masked_layers=2, **SMALL_FLOW)
guide = GaussianGuide(architecture=architecture)

# %% [markdown]
# ## Training
#
# This is plain Pyro, as in its tutorials: `SVI` with `Trace_ELBO`.

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
# $\log p(x)$ itself, image by image, and reports how well it worked. The effective sample size says
# how many of the samples matter, Pareto k how heavy the tail of their weights is: if the first is
# near one, or the second above 0.7 for many images, you need more samples or a better guide.

# %%
score = marginal_log_likelihood(model, guide, test.batch(slice(None)), num_samples=64)
for name, value in score.summary().items():
    print(f"{name:30} {value:8.3f}")

# %% [markdown]
# ## Pictures
#
# To generate images, run the model without an observation. After a few seconds of training the
# code keeps the silhouette, but not always the digit.

# %%
plot_samples(model(batch_size=32), "Samples of the small model")

# %%
x = test.batch(slice(0, 16))
plot_reconstructions(x, reconstruct(model, guide, x), "Test images and one decompression each")

# %% [markdown]
# The next notebooks swap the [prior](02_swap_the_prior) and the [guide](03_swap_the_guide), ask
# [what the code holds](04_what_the_code_holds), and show [other kinds of
# inference](05_your_own_inference).
