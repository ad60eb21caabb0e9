"""Write results/README.md from the results.json of each run."""

from pathlib import Path

from pyro_vlae.tables import results_page

RESULTS = Path(__file__).parents[1] / "results"

if __name__ == "__main__":
    (RESULTS / "README.md").write_text(results_page(RESULTS))
