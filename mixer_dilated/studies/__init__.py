"""Experiments: studies of many runs, their statistics, the sentences made from those."""
