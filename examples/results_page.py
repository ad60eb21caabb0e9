"""Write results/README.md: the paper's results and those of the runs in results/.

python examples/results_page.py
"""

import sys
from pathlib import Path

from pyro_vlae.experiments import ConfigError
from pyro_vlae.experiments.command_line import exit_status, folder, make_parser
from pyro_vlae.experiments.paper_tables import results_page

RESULTS = Path(__file__).parents[1] / "results"


def main(arguments: list[str] | None = None) -> int:
    """Write the page, and return the exit status."""
    parser = make_parser(__doc__)
    text = "folder with the runs; default: the repository's"
    parser.add_argument("--results", type=folder, metavar="DIR", default=RESULTS, help=text)
    results = parser.parse_args(arguments).results
    if not results.is_dir():
        raise ConfigError(f"there is no folder {results}: name the one that contains the runs")
    (results / "README.md").write_text(results_page(results))
    print(f"wrote {results / 'README.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
