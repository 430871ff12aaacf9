"""The carries: what each algorithm keeps of the influence before the open block, one module per algorithm."""
