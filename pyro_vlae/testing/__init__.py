"""Contracts that priors, guides, likelihoods and networks are tested against, also your own.

A contract is a class of tests. Derive from it, say how your part is made, and let pytest run it::

    from pyro_vlae.testing import PriorContract

    class TestMyPrior(PriorContract):
        def make(self):
            return MyPrior(8)

Every test makes its own instance, after seeding the generators. Make small ones: a few dimensions,
images of a few pixels. Class attributes adapt a contract; each names its own.
"""

from pyro_vlae.testing.guide import GuideContract
from pyro_vlae.testing.likelihood import LikelihoodContract
from pyro_vlae.testing.network import NetworkContract
from pyro_vlae.testing.prior import PriorContract

__all__ = ["GuideContract", "LikelihoodContract", "NetworkContract", "PriorContract"]
