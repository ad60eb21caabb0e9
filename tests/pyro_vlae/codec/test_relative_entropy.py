from contextlib import nullcontext

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import kstest, norm

from pyro_vlae.codec import codebook
from pyro_vlae.codec.codebook import BLOCK, Codebook
from pyro_vlae.codec.relative_entropy import ZipfCoder, choose_candidates, fit_exponent
from pyro_vlae.codec.stack import BitStack
from pyro_vlae.models import FlowPrior, StandardNormalPrior

SIZE = 2**14


def mixture(code_dim=2):
    weights = dist.Categorical(logits=torch.zeros(3))
    means = 3 * torch.eye(3)[:, :code_dim]
    return dist.MixtureSameFamily(weights, dist.Normal(means, 1.0).to_event(1))


PRIORS = {
    "normal": StandardNormalPrior(2)(),
    "shifted": dist.Normal(torch.ones(2), 2.0).to_event(1),
    "flow": FlowPrior(2, layers=2, hidden_dims=(8,))(),
    "mixture": mixture(),
}


@pytest.mark.parametrize("name", PRIORS)
@torch.no_grad()
def test_candidates_are_samples_of_the_prior_and_any_part_can_be_computed(name):
    prior = PRIORS[name]
    book = Codebook(prior)
    assert book.portable == (name != "mixture")
    blocks = list(book.blocks(2 * BLOCK + 100))
    assert [len(z) for z, _ in blocks] == [BLOCK, BLOCK, 100]
    z, log_p = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    assert torch.allclose(log_p, prior.log_prob(z.clone()), atol=1e-5)
    torch.manual_seed(3)
    index = torch.randint(len(z), (200,))
    assert torch.allclose(Codebook(prior).codes(index), z[index], atol=1e-6)
    samples = prior.sample((20000,))
    assert (samples.mean(0) - z.mean(0)).abs().max() < 0.08
    assert torch.allclose(samples.T.cov(), z.T.cov(), atol=0.15 * samples.var())


def test_other_priors_are_sampled_with_the_generator_of_their_device(monkeypatch):
    book, seeded, restored = Codebook(mixture()), [], []
    assert book.device == torch.device("cpu")
    book.device = torch.device("cuda:0")
    monkeypatch.setattr(codebook, "set_seed", lambda seed, device: seeded.append(device))

    def fork(devices):
        restored.extend(devices)
        return nullcontext()

    monkeypatch.setattr(torch.random, "fork_rng", fork)
    book.codes(torch.tensor([0, 7]))
    assert seeded == restored == [torch.device("cuda:0")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_random_state_of_a_gpu_neither_matters_nor_changes():
    weights = dist.Categorical(logits=torch.zeros(3, device="cuda"))
    parts = dist.Normal(torch.eye(3, device="cuda"), 1.0).to_event(1)
    book, codes = Codebook(dist.MixtureSameFamily(weights, parts)), []
    for seed in (0, 1):
        torch.cuda.manual_seed(seed)
        before = torch.cuda.get_rng_state()
        codes.append(book.codes(torch.arange(0, 3 * BLOCK, 100)))
        assert torch.equal(torch.cuda.get_rng_state(), before)
    assert codes[0].is_cuda and torch.equal(*codes)


def test_the_generator_never_changes():
    # Files hold indices only: other candidates would decode to other images.
    z = Codebook(StandardNormalPrior(3)()).codes(torch.tensor([0, BLOCK + 7]))
    expected = torch.tensor([[-0.81422, 1.62078, -0.07347], [0.96468, -1.11645, -0.23795]])
    assert torch.allclose(z, expected, atol=1e-4)


def test_chosen_candidates_are_samples_of_the_guide(monkeypatch):
    # On average over codebooks: with a given one, early candidates are preferred.
    size, codebooks = 2**12, 500
    loc, scale = torch.tensor([1.5, -0.7]), torch.tensor([0.3, 0.5])
    q = dist.Normal(loc.expand(1, 2), scale).to_event(1)
    index, codes = [], []
    for seed in range(codebooks):
        monkeypatch.setattr("pyro_vlae.codec.codebook.SEED", seed)
        book = Codebook(PRIORS["normal"])
        index.append(choose_candidates(book, size, [q], seed))
        codes.append(book.codes(index[-1]))
    index, z = torch.cat(index), torch.cat(codes)
    for k in range(2):
        assert kstest(z[:, k].numpy(), norm(loc[k].item(), scale[k].item()).cdf).pvalue > 0.001
    assert torch.corrcoef(z.T)[0, 1].abs() < 4 / codebooks**0.5
    # The cost of an index is at most KL + log2(KL + 1) + 5 bits (Theis and Yosri, Zipf's law).
    kl = torch.distributions.kl_divergence(q.base_dist, dist.Normal(0.0, 1.0)).sum() / np.log(2)
    coder, stack = ZipfCoder(12, fit_exponent(index, size)), BitStack(np.zeros(0, np.uint32))
    coder.push(stack, index)
    assert kl - 0.2 < len(stack) / codebooks < kl + 0.7 * torch.log2(kl + 1) + 2
    assert torch.equal(coder.pop(stack, codebooks), index)


def test_a_gaussian_guide_and_any_other_with_the_same_density_choose_alike():
    torch.manual_seed(0)
    q = dist.Normal(torch.randn(5, 2), 0.2 + torch.rand(5, 2)).to_event(1)
    other = dist.TransformedDistribution(q, [dist.transforms.AffineTransform(0.0, 1.0, 1)])
    book = Codebook(PRIORS["flow"])
    with torch.no_grad():
        chosen = [choose_candidates(book, SIZE, [d], seed=2) for d in (q, other)]
    assert torch.equal(*chosen)


def test_the_exponent_that_is_fitted_is_the_best():
    rng = np.random.default_rng(0)
    index = torch.from_numpy(np.minimum(rng.zipf(1.3, 500), 2**10) - 1)
    best = fit_exponent(index, 2**10)
    sizes = {}
    for k in (best // 2, best, 2 * best):
        stack = BitStack(np.zeros(0, np.uint32))
        ZipfCoder(10, k).push(stack, index)
        sizes[k] = len(stack)
    assert min(sizes, key=sizes.get) == best


@pytest.mark.parametrize("log2_size", [2, 5, 12])
def test_every_index_can_be_coded(log2_size):
    index = torch.tensor([0, 2**log2_size - 1, 1])
    coder, stack = ZipfCoder(log2_size, 40), BitStack(np.zeros(0, np.uint32))
    coder.push(stack, index)
    assert torch.equal(coder.pop(stack, 3), index)
