"""Write results/README.md: the runs in results/ beside the paper's figures.

python examples/results_page.py
"""

import sys
from pathlib import Path

from shared import exit_status, make_parser

from pyro_vlae.tables import results_page

RESULTS = Path(__file__).parents[1] / "results"


def main(arguments: list[str] | None = None) -> int:
    """Write the page; returns the exit status."""
    make_parser(__doc__).parse_args(arguments)
    (RESULTS / "README.md").write_text(results_page(RESULTS))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, ""))
