"""Contracts for testing priors, guides, likelihoods, and networks, including your own.

A contract is a class of tests. Derive from it, define `make`, and run it with pytest::

    from pyro_vlae.testing import PriorContract

    class TestMyPrior(PriorContract):
        def make(self):
            return MyPrior(8)

Every test seeds the generators and makes its own instance. Keep it small: a few dimensions, images
of a few pixels. Class attributes adapt a contract; its docstring lists them.
"""

from pyro_vlae.testing.guide import GuideContract
from pyro_vlae.testing.likelihood import LikelihoodContract
from pyro_vlae.testing.network import NetworkContract
from pyro_vlae.testing.prior import PriorContract

__all__ = ["GuideContract", "LikelihoodContract", "NetworkContract", "PriorContract"]
