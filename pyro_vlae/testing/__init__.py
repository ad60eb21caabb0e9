"""Test batteries for users' own priors, guides, likelihoods and networks."""
