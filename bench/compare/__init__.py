"""Other implementations at the same job; `python bench/compare` prints the table."""
