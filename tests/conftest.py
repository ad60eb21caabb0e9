"""Shared settings: few threads, validation on, an empty parameter store before each test."""

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vlae.nn.wavefront import WavefrontEvaluator

torch.set_num_threads(1)  # small tensors: threads only wait for each other on a busy machine


@pytest.fixture(autouse=True)
def _clean_pyro():
    pyro.clear_param_store()
    pyro.enable_validation(True)
    pyro.set_rng_seed(0)


NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_CUDA)])
def device(request):
    """Each device there is, in turn."""
    return torch.device(request.param)


@pytest.fixture
def real_data_root():
    """The folder of published data files; without it the test is skipped, unless CI requires it."""
    root = os.environ.get("PYRO_VLAE_DATA")
    if not root or not Path(root).is_dir():
        message = "PYRO_VLAE_DATA does not name a folder of published data files"
        if os.environ.get("PYRO_VLAE_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(root)


def import_file(path):
    """The module in a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def import_script(tmp_path_factory):
    """A function that writes a script to a file, which processes can run, and imports it."""

    def write(name, text):
        path = tmp_path_factory.mktemp("script") / f"{name}.py"
        path.write_text(text)
        return import_file(path)

    return write


@pytest.fixture(scope="session")
def run_two_ranks():
    """A function that runs a script as ``script FOLDER RANK`` twice, and loads their results."""

    def run(script):
        path = Path(script.__file__)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        commands = [[sys.executable, str(path), str(path.parent), str(r)] for r in range(2)]
        processes = [subprocess.Popen(command, env=environment) for command in commands]
        try:
            assert [process.wait(100) for process in processes] == [0, 0]
        finally:
            for process in processes:
                process.kill()
        return [torch.load(path.parent / f"rank{r}.pt", weights_only=True) for r in range(2)]

    return run


@pytest.fixture
def load_example(monkeypatch):
    """A function that imports a script of examples/ by name, as if run from there."""
    folder = Path(__file__).parents[1] / "examples"
    monkeypatch.syspath_prepend(str(folder))

    def load(name):
        return import_file(folder / f"{name}.py")

    return load


@pytest.fixture(scope="session")
def feed_by_wavefronts():
    """A function that feeds known images to a network's wavefront evaluator, front by front.

    It returns the parameters that the evaluator gave at each pixel.
    """

    def feed(network, x, context):
        evaluator = WavefrontEvaluator(network, context, len(x), *x.shape[-2:])
        got = None
        in_turn = getattr(network, "channel_autoregressive", False)
        for rows, columns in evaluator:
            pixels = x[:, :, rows, columns].unsqueeze(2)
            for values in pixels.split(1, 1) if in_turn else [pixels]:
                parameters = evaluator.parameters()
                evaluator.write(values)
            if got is None:
                got = x.new_full((len(x), parameters.shape[1], *x.shape[2:]), torch.nan)
            got[:, :, rows, columns] = parameters.squeeze(2)
        return got

    return feed


class LinearGaussian:
    """z ~ N(0, I), x = W z + noise in images (B, 1, H, W): every quantity in closed form."""

    def __init__(self, code_dim=3, height=2, width=3, noise=0.7, dtype=torch.float64):
        generator = torch.Generator().manual_seed(code_dim + 10 * height + 100 * width)
        pixels = height * width
        self.weight = torch.randn(pixels, code_dim, generator=generator, dtype=dtype)
        self.image_shape, self.noise, self.code_dim = (1, height, width), noise, code_dim
        precision = torch.eye(code_dim, dtype=dtype) + self.weight.T @ self.weight / noise**2
        self.posterior_covariance = torch.linalg.inv(precision)
        self.codes_scored = []  # codes of each pass of the model

    def sample(self, count, seed=0):
        generator = torch.Generator().manual_seed(seed)
        draw = partial(torch.randn, generator=generator, dtype=self.weight.dtype)
        x = draw(count, self.code_dim) @ self.weight.T
        return (x + self.noise * draw(x.shape)).reshape(count, *self.image_shape)

    def log_prob(self, x):
        covariance = self.weight @ self.weight.T
        covariance = covariance + self.noise**2 * torch.eye(len(covariance), dtype=x.dtype)
        return dist.MultivariateNormal(x.new_zeros(len(covariance)), covariance).log_prob(
            x.flatten(1)
        )

    def posterior(self, x, shift=0.0, scale=1.0):
        """The exact p(z | x), or one moved and widened."""
        mean = x.flatten(1) @ self.weight @ self.posterior_covariance / self.noise**2
        return dist.MultivariateNormal(mean + shift, self.posterior_covariance * scale**2)

    def model(self, x):
        with pyro.plate("images", len(x), dim=-1):
            prior = dist.Normal(self.weight.new_zeros(()), 1.0).expand([self.code_dim])
            z = pyro.sample("z", prior.to_event(1))
            self.codes_scored.append(z[..., 0].numel())
            mean = (z @ self.weight.T).reshape(*z.shape[:-1], *self.image_shape)
            pyro.sample("x", dist.Normal(mean, self.noise).to_event(3), obs=x)

    def guide(self, x, **error):
        with pyro.plate("images", len(x), dim=-1):
            pyro.sample("z", self.posterior(x, **error))


@pytest.fixture(scope="session")
def linear_gaussian():
    """The class of linear-Gaussian models, to be built in the size that a test wants."""
    return LinearGaussian
