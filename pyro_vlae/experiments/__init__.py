"""The paper's runs: recipes, training and scoring, trained weights, tables, studies."""
