"""Train and score the rows of one of the paper's tables: `python examples/binary_images.py`.

The code is in `pyro_vlae/commands/paper_table.py`;
`pyro-vlae paper-table` does the same.
"""

import sys

from pyro_vlae.commands.paper_table import main
from pyro_vlae.experiments.command_line import exit_status

if __name__ == "__main__":
    sys.exit(exit_status(main, "the same command and --resume"))
