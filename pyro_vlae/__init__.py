"""pyro_vlae: the Variational Lossy Autoencoder (Chen et al., 2017) as a Pyro program.

The parts live here; ``pyro_vlae.models`` says p(x, z) and ``pyro_vlae.guides`` says q(z | x).
"""

from pyro_vlae._version import __version__

__all__ = ["__version__"]
