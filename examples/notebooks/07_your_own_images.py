# %% [markdown]
# # Your own images
#
# Any images of one size will do: an array, a folder of files, or a data set of another library.
# This notebook takes gray images, loads them in three ways, trains a VLAE on their 256 gray levels,
# and loads the run again. The images are scikit-learn's scanned digits, 8x8 pixels, so that
# training takes seconds; with your own, only the first cell differs.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import numpy as np
import pyro
import torch
from PIL import Image
from sklearn.datasets import load_digits

from pyro_vlae.data import BINARY, ImageDataset, load_images
from pyro_vlae.experiments import load_run, recipe_for, run
from pyro_vlae.guides import GaussianGuide
from pyro_vlae.infer import JointOptim, reconstruct
from pyro_vlae.models import gray_vlae
from pyro_vlae.nn import ResNetArchitecture
from pyro_vlae.plots import plot_reconstructions, plot_samples
from pyro_vlae.training import TrainingSettings, fit

pyro.set_rng_seed(0)
folder = Path(tempfile.mkdtemp())
digits = load_digits()
images, labels = digits.images / 16, digits.target  # floats from 0 to 1, and integers
print(images.shape, images.dtype, images.min(), images.max())

# %% [markdown]
# ## From an array
#
# Images can be bools, integers from 0 to 255, or floats from 0 to 1, with or without a dimension
# for the channels. The description says how they were understood and split.

# %%
data = ImageDataset.from_arrays(images, labels, name="scans")
print(data.description)
show = data.values.to_unit_range
plot_samples(show(data.train.batch(slice(0, 16))), "Training images")

# %% [markdown]
# The values that a model sees run from -1 to 1 in 256 levels. With `values=BINARY`, a gray level is
# the probability of a 1 instead, and each time an image is used, it is binarized anew:

# %%
binarized = ImageDataset.from_arrays(images, labels, values=BINARY)
same = binarized.train.batch(torch.zeros(16, dtype=torch.long))
plot_samples(same, "One image, binarized 16 times")

# %% [markdown]
# ## From files
#
# `load_images` reads an `.npz` file, or a folder with a subfolder for each class. The same path can
# be passed to the scripts: `python examples/mnist_vlae.py --dataset PATH`.

# %%
np.savez_compressed(folder / "scans.npz", images=images, labels=labels)
print(load_images(folder / "scans.npz").description)

# %%
for number, (image, label) in enumerate(zip(images[:200], labels, strict=False)):
    (folder / "files" / f"digit {label}").mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray((255 * image).astype(np.uint8))
    picture.save(folder / "files" / f"digit {label}" / f"{number}.png")
print(load_images(folder / "files").description)

# %% [markdown]
# ## A whole run
#
# A recipe holds all settings of a run. `recipe_for` chooses the one for these pixel values, here
# `GrayRecipe`, and `run` trains, scores, and plots. This run has a small code and a small
# PixelCNN, and is much too short for good samples: it only shows which files it writes.

# %%
recipe = recipe_for(data, max_steps=10, code_dim=8, filters=8, num_samples=8, eval_images=20)
results = run(recipe, data, folder / "run")
print(recipe.describe())
print(f"test NLL {results['nll_nats'] / 64 / np.log(2):.2f} bits/dim")
print(*sorted(path.name for path in (folder / "run").iterdir()))

# %% [markdown]
# The run records the shape of the images and the size of the code, so its folder is all you need:

# %%
model, guide = load_run(folder / "run")
print(model.card["config"]["image_shape"], model.card["config"]["code_dim"])

# %% [markdown]
# ## Parts of your own
#
# For other networks, build the model and train it with `fit`. With `masked_layers=1`, a pixel sees
# only its neighbors: the code must hold the digit.

# %%
pyro.clear_param_store()
architecture = ResNetArchitecture(data.image_shape, code_dim=8, channels=(16,), features=64)


def build():
    model = gray_vlae(
        architecture=architecture,
        masked_layers=1,
        pixelcnn_channels=16,
        flow_layers=2,
        flow_hidden_dims=(64, 64),
    )
    return model, GaussianGuide(architecture=architecture)


model, guide = build()
recipe = recipe_for(data)
fit(
    model,
    guide,
    data.train,
    elbo=recipe.objective(64),
    optimizer=JointOptim(torch.optim.Adamax, {"lr": 0.01}, ema_decay=0.98),
    settings=TrainingSettings(max_steps=400),
    out=folder / "small",
    progress=False,
)
model, guide = load_run(folder / "small", *build())  # the averaged weights

# %%
x = data.test.batch(slice(0, 16))
again = reconstruct(model, guide, x)
plot_reconstructions(show(x), show(again), "Test images and one decompression each")

# %%
with torch.no_grad():
    samples = model(batch_size=32)
plot_samples(show(samples), "Samples")
