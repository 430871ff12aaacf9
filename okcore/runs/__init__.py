"""Runs: training in a folder, with options, metrics, checkpoints and a command line."""
