"""Decompress the same images under several windows: `python examples/cifar10_windows.py`.

The code is in `pyro_vlae/commands/compare_windows.py`;
`pyro-vlae compare-windows` does the same.
"""

import sys

from pyro_vlae.commands.compare_windows import main
from pyro_vlae.experiments.command_line import exit_status

if __name__ == "__main__":
    sys.exit(exit_status(main))
