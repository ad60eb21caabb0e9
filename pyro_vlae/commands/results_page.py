"""Compare the runs in a folder with the paper's tables.

    %(prog)s

Writes README.md to the folder: the paper's results and those of the runs.
"""

from pathlib import Path

from pyro_vlae.experiments import ConfigError
from pyro_vlae.experiments.command_line import folder, make_parser
from pyro_vlae.experiments.paper_tables import results_page


def main(arguments: list[str] | None = None) -> int:
    """Write the page, and return the exit status."""
    parser = make_parser(__doc__)
    text = "folder with the runs; default: results"
    parser.add_argument("--results", type=folder, metavar="DIR", default=Path("results"), help=text)
    results = parser.parse_args(arguments).results
    if not results.is_dir():
        raise ConfigError(f"there is no folder {results}: name the one that contains the runs")
    (results / "README.md").write_text(results_page(results))
    print(f"wrote {results / 'README.md'}")
    return 0
