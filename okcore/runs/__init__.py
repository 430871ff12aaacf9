"""Runs: training in a folder, with options, checkpoints and a command line."""
