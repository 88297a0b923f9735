"""Empirical Bayes smoothed classifiers: what a vote is, and what a certificate means."""
