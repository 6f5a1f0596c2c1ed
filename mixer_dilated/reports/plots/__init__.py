"""Plots of runs and studies, as figures with the words that belong to them."""
