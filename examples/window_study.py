"""Train one model per window: `python examples/window_study.py`.

The code is in `pyro_vlae/commands/window_study.py`;
`pyro-vlae window-study` does the same.
"""

import sys

from pyro_vlae.commands.window_study import main
from pyro_vlae.experiments.command_line import exit_status

if __name__ == "__main__":
    sys.exit(exit_status(main, "the same command and --resume"))
