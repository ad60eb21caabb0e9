"""Contracts for testing priors, guides, likelihoods, and networks, including your own.

A contract is a class of tests. Subclass it, define `make`, and run it with pytest::

    from pyro_vlae.testing import PriorContract

    class TestMyPrior(PriorContract):
        def make(self):
            return MyPrior(8)

Every test seeds the generators and makes its own instance. Keep it small: a few dimensions, images
of a few pixels. To adapt a contract, set the class attributes listed in its docstring.
"""

from pyro_vlae.testing.guide import GuideContract
from pyro_vlae.testing.likelihood import LikelihoodContract
from pyro_vlae.testing.network import NetworkContract
from pyro_vlae.testing.prior import PriorContract

__all__ = ["GuideContract", "LikelihoodContract", "NetworkContract", "PriorContract"]
