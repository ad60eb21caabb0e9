"""The commands of ``pyro-vlae``, one module each; `pyro_vlae.__main__` lists them."""
