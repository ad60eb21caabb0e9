import numpy as np
import pytest
from constriction import stream
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from pyro_vlae.codec import CodecError
from pyro_vlae.codec.stack import BitStack, gaussian_bits, initial_words


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(1, 30), st.integers(0, 2**32))
def test_pushing_what_was_popped_restores_the_stack_even_an_empty_one(words, count, seed):
    rng = np.random.default_rng(seed)
    stack = BitStack(initial_words(words))
    means, scales = rng.normal(0, 50, count), rng.lognormal(2, 2, count)
    probabilities = rng.random(count)
    probabilities[0] = seed % 2  # certain, and yet the other symbol can be coded
    codes = stack.pop_gaussians(means, scales)
    two = np.stack([1 - probabilities, probabilities], -1)
    bits = stack.pop_levels(two)
    levels = stack.pop_levels(rng.random((count, 7)))
    noise = stack.pop_normal(count, 32.0, 256)
    assert set(bits) <= {0, 1} and np.abs(noise).max() <= 256
    stack.push_normal(noise, 32.0, 256)
    rng = np.random.default_rng(seed)
    rng.normal(0, 50, count), rng.lognormal(2, 2, count), rng.random(count)
    stack.push_levels(levels, rng.random((count, 7)))
    stack.push_levels(bits, two)
    stack.push_gaussians(codes, means, scales)
    assert np.array_equal(stack.words(), initial_words(words))


def test_popped_integers_follow_the_gaussian_and_take_its_entropy():
    count, scale, mean = 5000, 7.3, 100.4
    stack = BitStack(initial_words(2 * count))
    before = len(stack)
    popped = stack.pop_gaussians(np.full(count, mean), np.full(count, scale))
    assert before - len(stack) == pytest.approx(gaussian_bits(np.full(count, scale)), rel=0.01)
    jitter = np.random.default_rng(0).uniform(-0.5, 0.5, count)
    assert kstest(popped + jitter, norm(mean, scale).cdf).pvalue > 0.01


@pytest.mark.parametrize("levels", [2, 16])
def test_pushing_costs_the_negative_log_probability(levels):
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.full(levels, 0.3), 20000)
    symbols = (rng.random((20000, 1)) > probabilities.cumsum(1)[:, :-1]).sum(1)
    stack = BitStack(initial_words(4))
    before = len(stack)
    stack.push_levels(symbols, probabilities)
    cost = -np.log2(probabilities[np.arange(20000), symbols]).sum()
    assert len(stack) - before == pytest.approx(cost, rel=1e-3)


def test_two_levels_are_coded_like_bits():
    # Files of binary models were once written with constriction's Bernoulli model.
    rng = np.random.default_rng(2)
    ones = (1 / (1 + np.exp(-rng.normal(0, 8, 20000)))).astype(np.float32)
    ones[:4] = 0, 1, 1e-38, 1 - 2**-24
    bits = (rng.random(20000) < ones).astype(np.int32)
    bits[:4] = 1, 0, 0, 1
    stack = BitStack(initial_words(4))
    wide = ones.astype(np.float64)
    stack.push_levels(bits, np.stack([1 - wide, wide], -1))
    coder = stream.stack.AnsCoder(initial_words(4))
    coder.encode_reverse(bits, stream.model.Bernoulli(perfect=False), ones)
    assert np.array_equal(stack.words(), coder.get_compressed())


def test_what_cannot_be_coded_is_refused():
    with pytest.raises(CodecError, match="the last are zero"):
        BitStack(np.zeros(3, np.uint32))
    with pytest.raises(CodecError, match="too wide"):
        BitStack(initial_words(9)).pop_gaussians(np.zeros(1), np.full(1, 1e6))
    with pytest.raises(CodecError, match="rounds differently"):
        BitStack(initial_words(9)).push_gaussians(np.array([99]), np.zeros(1), np.ones(1))
    with pytest.raises(CodecError, match="probabilities that are not finite"):
        BitStack(initial_words(9)).pop_levels(np.array([[np.nan, 1.0]]))
