# %% [markdown]
# # Compression: what a file of codes holds
#
# A VLAE can compress images to files: with loss, a file holds the codes alone; without loss, it
# also holds the pixels given the codes. The sizes show in bytes what rate and ELBO mean. Both need
# the package `constriction` (`pip install -e ".[codec]"`).

# %%
# %matplotlib inline
import warnings

import pyro
import torch

from pyro_vlae.codec import LosslessCodec, LossyCodec
from pyro_vlae.infer import marginal_log_likelihood
from pyro_vlae.models import load_pretrained
from pyro_vlae.plots import plot_groups

model, guide = load_pretrained("static-mnist")
pyro.set_rng_seed(0)
images = model(batch_size=48)  # samples, so that nothing has to be downloaded

# %% [markdown]
# ## Without loss
#
# The size of the file is close to the negative ELBO. The rest is the header, which names everything
# that must be the same for decoding, and the random bits that the first image starts from. Both
# matter less in a larger file.

# %%
lossless = LosslessCodec(model, guide)
data = lossless.compress(images)
assert torch.equal(lossless.decompress(data), images)
elbo = marginal_log_likelihood(model, guide, images, num_samples=16).elbo
bound = -elbo.sum().item() / torch.tensor(2.0).log().item()
print(f"{len(images)} images: {8 * len(data)} bits; -ELBO is {bound:.0f} bits")

# %% [markdown]
# A damaged file is refused.

# %%
damaged = data[:100] + bytes([data[100] ^ 1]) + data[101:]
try:
    lossless.decompress(damaged)
except ValueError as error:
    print(error)

# %% [markdown]
# ## With loss
#
# Only the code is kept, as an index among samples from the prior. Here there are 2^16 of them, so
# that the notebook is fast; the default is 2^20. A warning counts the images whose rate is too high
# for so few.

# %%
lossy = LossyCodec(model, guide, log2_candidates=16)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    few = lossy.compress(images)
print(f"{len(images)} images: {len(few)} bytes, {8 * len(few) / len(images):.1f} bits per image")
print(caught[0].message)

# %% [markdown]
# Each decompression samples new details. What the three have in common is what the file holds.

# %%
versions = {name: lossy.decompress(few)[:12] for name in ("first", "second", "third")}
title = "Samples of the model of static MNIST, and three decompressions of one file"
plot_groups({"original": images[:12], **versions}, title, groups_per_row=3)

# %% [markdown]
# The rate of an image says how surprising its code is under the prior: typical digits need few
# bits.

# %%
rates = lossy.rates(images)
order = rates.argsort()
print(f"from {rates.min():.1f} to {rates.max():.1f} bits")
extremes = {"lowest rate": images[order[:8]], "highest rate": images[order[-8:]]}
plot_groups(extremes, "Images with the lowest and the highest rate, model of static MNIST")
