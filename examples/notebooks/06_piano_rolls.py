# %% [markdown]
# # Another kind of data: piano rolls
#
# A piano roll is a binary image whose rows are frames of time and whose columns are the 88 keys of
# a piano. The idea is that of images: the decoder is autoregressive over a window, here the past
# $B$ frames and the lower keys of the same frame, and the code holds what the window cannot show.
# What is new: pieces have different lengths, and the code is as long as the piece, with one vector
# for every 8 frames.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_vlae.data import PIANO_ROLLS, DatasetNotFoundError, load_dataset
from pyro_vlae.data.midi import read_midi, write_midi
from pyro_vlae.data.piano_rolls import PianoRollDataset, PianoRollSplit
from pyro_vlae.guides.piano_roll import PianoRollGuide
from pyro_vlae.infer import initialize, marginal_log_likelihood, reconstruct
from pyro_vlae.models.piano_roll import piano_roll_vlae
from pyro_vlae.plots import plot_groups, plot_samples

pyro.set_rng_seed(0)

# %% [markdown]
# ## Data
#
# `jsb-chorales` is a set of 382 chorales by Bach. If the file is neither on disk nor downloadable,
# we write some chords ourselves, so that the notebook runs anywhere.


# %%
def broken_chords() -> PianoRollDataset:
    """Triads in four voices that move along the circle of fifths."""

    def split(count: int) -> PianoRollSplit:
        pieces = []
        for number in range(count):
            frames = torch.zeros(40, 88, dtype=torch.uint8)
            for frame in range(40):
                root = 27 + (7 * (number + frame // 4)) % 12
                frames[frame, [root, root + 12, root + 16, root + 19]] = 1
            pieces.append(frames)
        return PianoRollSplit(torch.cat(pieces), torch.full((count,), 40))

    return PianoRollDataset("chords", "chords of our own", split(48), split(12), split(12))


try:
    data = load_dataset("jsb-chorales", download=False)
except DatasetNotFoundError:
    data = broken_chords()
print(data.description)

# %% [markdown]
# A batch is padded to its longest piece; keys are 0 and 1, and -1 after the end of a piece.
# Training pieces are cropped and transposed at random; validation and test pieces never are.

# %%
train = data.augmented(transpose=True, crop=32).train
x = train.batch(torch.arange(4))
print(x.shape, "lengths", (x[:, 0, :, 0] >= 0).sum(-1).tolist())
plot_samples(PIANO_ROLLS.to_unit_range(x), "Excerpts: time to the right, pitch upward", columns=4)

# %% [markdown]
# ## Model and guide
#
# The likelihood is a PixelCNN whose weights all keys share, so it learns intervals, not keys. The
# guide's strided convolutions map a roll to means and scales of the code, and the prior is an
# autoregressive flow over the vectors of the code. Everything after the end of a piece is masked in
# prior, guide, and likelihood, so a piece scores the same in a batch of longer pieces as alone.

# %%
model = piano_roll_vlae(window=2, hidden_channels=12, code_channels=2, flow_layers=2)
guide = PianoRollGuide(code_channels=2)
initialize(model, guide, train.batch(torch.arange(16)))
svi = SVI(model, guide, pyro.optim.Adamax({"lr": 0.02}), Trace_ELBO())
for step in range(81):
    x = train.batch(torch.randint(len(train), (8,)))
    loss = svi.step(x)
    if step % 20 == 0:
        frames = (x[:, 0, :, 0] >= 0).sum().item()
        print(f"step {step:2}: {loss / frames:5.2f} nats per frame")

# %% [markdown]
# ## Score
#
# Scores of music are sums over all frames of all pieces, divided by the number of frames: long
# pieces count more. A code of many dimensions makes importance sampling hard: above 0.7, Pareto k
# says that the NLL is unreliable (the bound holds in any case).

# %%
model.eval(), guide.eval()
pieces = [data.test.batch(torch.tensor([number])) for number in range(6)]
scores = [marginal_log_likelihood(model, guide, piece, num_samples=32) for piece in pieces]
frames = data.test.lengths[:6].sum()
nll = -torch.cat([score.log_prob for score in scores]).sum() / frames
bound = -torch.cat([score.elbo for score in scores]).sum() / frames
print(f"NLL {nll:.2f}, bound {bound:.2f} nats per frame")
print("Pareto k:", [round(score.pareto_k.item(), 2) for score in scores])

# %% [markdown]
# ## Play
#
# Decompressions, and continuations of the first 8 frames: `complete` samples the remaining frames
# from their exact conditional distribution given the code.

# %%
x = data.test.batch(torch.arange(4))[:, :, :16]
with torch.no_grad():
    lengths = torch.full((4,), 16)
    likelihood = model.likelihood(model.decoder(guide(x), lengths, 16), lengths)
    pictures = {
        "original": x,
        "decompressed": reconstruct(model, guide, x),
        "continued": likelihood.complete(x, torch.arange(16) < 8),
    }
shown = {name: PIANO_ROLLS.to_unit_range(rolls) for name, rolls in pictures.items()}
plot_groups(shown, f"{data.name}: test pieces, decompressed and continued, window of 2 frames")

# %% [markdown]
# A roll becomes a MIDI file, and is read back from it.

# %%
roll = pictures["continued"][0, 0].numpy()
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "continued.mid"
    write_midi(path, roll)
    print(path.stat().st_size, "bytes; read back:", (read_midi(path) == roll).all())

# %% [markdown]
# `examples/piano_rolls.py` trains a larger model, and `examples/piano_roll_windows.py` compares
# windows of 1 to 16 frames, as [what the code holds](04_what_the_code_holds) does for images.
