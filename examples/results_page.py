"""Compare the runs in results/ with the paper: `python examples/results_page.py`.

The code is in `pyro_vlae/commands/results_page.py`;
`pyro-vlae results-page` does the same.
"""

import sys

from pyro_vlae.commands.results_page import main
from pyro_vlae.experiments.command_line import exit_status

if __name__ == "__main__":
    sys.exit(exit_status(main))
