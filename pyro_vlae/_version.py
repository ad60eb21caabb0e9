"""The version of pyro_vlae, in one place."""

__version__ = "0.1.0"
