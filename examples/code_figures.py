"""Plot what a trained model's code controls: `python examples/code_figures.py`.

The code is in `pyro_vlae/commands/figures.py`;
`pyro-vlae figures` does the same.
"""

import sys

from pyro_vlae.commands.figures import main
from pyro_vlae.experiments.command_line import exit_status

if __name__ == "__main__":
    sys.exit(exit_status(main))
