"""No step and no draw waits for the device: checked on the CPU, where it would cost nothing.

On a GPU a number read by the host stops the queue of kernels, and a CUDA graph forbids it.
"""

import itertools

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vlae.guides import GaussianGuide, IAFGuide, color_guide
from pyro_vlae.infer import FreeBitsELBO, SoftFreeBitsELBO, initialize, reconstruct
from pyro_vlae.models import binary_vlae, color_vlae, unconditional_pixelcnn
from pyro_vlae.nn import MapArchitecture

SMALL = MapArchitecture((3, 8, 8), 2, (4, 6), (1, 1))
BINARY = {"code_dim": 4, "image_shape": (1, 8, 8), "flow_hidden_dims": (8,), "pixelcnn_channels": 4}


class HostReads(TorchDispatchMode):
    """Refuses operations that a GPU and its host would wait for each other at."""

    READS = frozenset({"_local_scalar_dense", "nonzero", "equal", "masked_select", "bincount"})
    UNIQUE = frozenset({"_unique", "_unique2", "unique_consecutive", "unique_dim"})
    COPIES = frozenset({"lift_fresh", "_to_copy"})

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        masked = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        # Pyro's plates make an empty tensor.
        made = name == "lift_fresh" and args[0].numel() == 0
        if (masked or name in self.READS | self.UNIQUE | self.COPIES) and not made:
            raise AssertionError(f"the host would wait for {func}")
        return func(*args, **(kwargs or {}))


class ListReads(TorchFunctionMode):
    """Refuses methods that read memory directly."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("tolist", "numpy"):
            raise AssertionError(f"the host would wait for {func.__name__}")
        return func(*args, **(kwargs or {}))


def programs(kind):
    """A model, its guide and images, initialized."""
    pyro.set_rng_seed(0)
    x, guide = torch.rand(3, 1, 8, 8).round(), GaussianGuide(code_dim=4, image_shape=(1, 8, 8))
    if kind == "unconditional":
        model, guide = (
            unconditional_pixelcnn(image_shape=(1, 8, 8), pixelcnn_channels=4),
            lambda x: None,
        )
    elif kind == "color":
        x = torch.randint(256, (3, 3, 8, 8)) / 127.5 - 1
        model = color_vlae(SMALL, "5x3", flow_layers=2, flow_channels=(6,), pixelcnn_channels=4)
        guide = color_guide(SMALL)
    elif kind == "iaf":
        model = binary_vlae(prior="normal", likelihood="bernoulli", **BINARY)
        guide = IAFGuide(code_dim=4, image_shape=(1, 8, 8), hidden_dims=(8,))
    else:
        model = binary_vlae(window=None if kind == "stacked" else "7x4", **BINARY)
    initialize(model, guide, x)
    return model, guide, x


KINDS = ("unconditional", "stacked", "two-stack", "iaf", "color")


@pytest.mark.parametrize("kind", KINDS)
def test_draws_read_nothing_after_the_first(kind):
    model, guide, x = programs(kind)
    model.eval()

    def sample():
        model(batch_size=2)
        if kind != "unconditional":
            reconstruct(model, guide, x)

    with torch.no_grad(), pyro.validation_enabled(False):
        sample()
        with HostReads(), ListReads():
            sample()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", KINDS)
def test_draws_can_be_captured_in_a_cuda_graph(kind):
    model, _, _ = programs(kind)
    model.cuda()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.no_grad(), pyro.validation_enabled(False):
        with torch.cuda.stream(stream):
            expected = torch.cat([model(batch_size=500) for _ in range(2)])
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            drawn = model(batch_size=500)
    replays = []
    for _ in range(2):
        graph.replay()
        replays.append(drawn.clone())
    assert not torch.equal(*replays)
    torch.testing.assert_close(torch.cat(replays).mean(0), expected.mean(0), atol=0.15, rtol=0)


@pytest.mark.parametrize(
    ("kind", "objective"),
    [*itertools.product(KINDS[1:], ("free bits", "soft", "plain")), ("unconditional", "plain")],
)
def test_the_objective_stays_on_its_device(kind, objective):
    """Tensors on the meta device have no numbers to read, and cannot meet others."""
    elbo = Trace_ELBO()
    if objective != "plain":
        elbo = FreeBitsELBO(7.84) if objective == "free bits" else SoftFreeBitsELBO(10.0)
    model, guide, x = programs(kind)
    modules = torch.nn.ModuleList(p for p in (model, guide) if isinstance(p, torch.nn.Module))
    modules.to("meta")
    pyro.clear_param_store()  # it holds the parameters on the CPU
    with pyro.validation_enabled(False):
        # What Trace_ELBO does with the traces, but for its reading of the loss.
        for traces in elbo._get_traces(model, guide, (x.to("meta"),), {}):
            sites = [[s for s in t.nodes.values() if s["type"] == "sample"] for t in traces]
            terms = [-s["log_prob_sum"] for s in sites[0]] + [s["log_prob_sum"] for s in sites[1]]
            sum(terms).backward()
        if objective == "soft":
            elbo._adapt()
    assert sum(terms).is_meta
    assert all(p.grad is not None and p.grad.is_meta for p in modules.parameters())


def test_a_read_is_noticed():
    """Else the tests above could not fail."""
    x, reads = torch.ones(3), ("item", "__bool__", "nonzero", "tolist", "numpy", "unique")
    methods = [getattr(x[:1], name) for name in reads]
    for read in [*methods, lambda: x[x > 0], lambda: torch.equal(x, x), lambda: torch.tensor([1])]:
        with pytest.raises(AssertionError, match="the host would wait"), HostReads(), ListReads():
            read()
