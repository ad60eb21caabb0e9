# %% [markdown]
# # A VLAE in ten minutes
#
# A variational autoencoder whose decoder is autoregressive over a small *window* of pixels: what
# the window shows, the decoder models by itself; what it does not show must be in the code. Here
# is one, as the Pyro program that it is: data, model, guide, training, score, pictures.

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
from pyro_vlae.nn import ResNetDecoder, ResNetEncoder
from pyro_vlae.plots import plot_reconstructions, plot_samples

pyro.set_rng_seed(0)

# %% [markdown]
# ## Data
#
# `digits` comes with scikit-learn. We keep every other pixel, so that training takes seconds.
# `draw` gives a batch as the model takes it: floats 0 and 1, ink is 1.

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
# The model says $p(x, z)$. `binary_vlae` is the paper's recipe: an autoregressive flow as the
# prior of the code, a ResNet decoder that puts out four feature maps, and a PixelCNN that reads
# them. Everything is made smaller here; two masked layers see two rows up.

# %%
shape, code_dim = train.image_shape, 16
model = binary_vlae(
    code_dim=code_dim,
    image_shape=shape,
    decoder=ResNetDecoder(code_dim, shape, channels=(8,), features=64),
    masked_layers=2,
    flow_steps=2,
    flow_hidden_dims=(64, 64),
)
guide = GaussianGuide(code_dim, shape, ResNetEncoder(shape, channels=(8,), features=64))

# %% [markdown]
# ## Training
#
# Plain Pyro, as its tutorials write it.

# %%
svi = SVI(model, guide, pyro.optim.Adamax({"lr": 0.01}), Trace_ELBO())
for step in range(401):
    loss = svi.step(train.batch(torch.randint(len(train), (64,))))
    if step % 100 == 0:
        print(f"step {step:3}: the images of this batch cost {loss / 64:6.1f} nats each")

# %% [markdown]
# Model and guide are modules and Pyro programs. A trace shows the sites: the code `z` and the
# image `x`, both in a plate of images. (Trace a model after its first training step, not before:
# its layers are initialized by the first batch that they see.)

# %%
x = test.batch(slice(0, 3))
trace = poutine.trace(poutine.block(model, hide_types=["param"])).get_trace(x)
trace.compute_log_prob()
print(trace.format_shapes())

# %% [markdown]
# ## Score
#
# The ELBO is a bound. Importance sampling with the guide as the proposal comes nearer to
# $\log p(x)$, image by image, and says how well it worked: an effective sample size near one or a
# Pareto k above 0.7 for many images would mean that more samples, or a better guide, are needed.

# %%
score = marginal_log_likelihood(model, guide, test.batch(slice(None)), num_samples=64)
for name, value in score.summary().items():
    print(f"{name:30} {value:8.3f}")

# %% [markdown]
# ## Pictures
#
# New images are the model, run without an observation. A *decompression* is $z \sim q(z \mid x)$,
# $x' \sim p(x \mid z)$: the guide's codes in the model with its observation taken away, which is
# Pyro's `Predictive`. After seconds of training the code keeps the silhouette, not always the
# digit.

# %%
plot_samples(model(batch_size=32), "Samples of the small model")

# %%
x = test.batch(slice(0, 16))
decompress = Predictive(poutine.uncondition(model), guide=guide, num_samples=1)
with torch.no_grad():
    again = decompress(x)["x"][0]
plot_reconstructions(x, again, "Test images and one decompression each")

# %% [markdown]
# ## A larger one, already trained
#
# The same program in the paper's size, trained on static MNIST; how far, its card says. Its
# samples stand in for test images here, so that nothing has to be downloaded: we draw some,
# encode them, and draw what their codes decode to. The shape comes back, the noise along its
# edges is new.

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
# The next notebooks swap the [prior](02_swap_the_prior) and the [guide](03_swap_the_guide), look
# at [what the code holds](04_what_the_code_holds), and use the model in [inference of your
# own](05_your_own_inference).
