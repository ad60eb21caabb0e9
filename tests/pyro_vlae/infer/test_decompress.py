import pyro
import pyro.distributions as dist
import torch

from pyro_vlae.infer import decompress


def test_images_are_sampled_from_the_codes_of_the_guide():
    def guide(x):
        with pyro.plate("images", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(x + 3, 0.01).to_event(1))

    def model(x=None):
        with pyro.plate("images", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(10 * z, 0.1).to_event(1), obs=x)

    x = torch.rand(500, 2)
    first, second = decompress(model, guide, x), decompress(model, guide, x)
    torch.testing.assert_close(first, 10 * (x + 3), atol=1.0, rtol=0)
    assert not torch.equal(first, second) and not torch.equal(first, x)
