"""The engine: steps, blocks, resets and credits, for any cell and any carry."""
