from okcore._carries.kronecker import KroneckerCarry
from okcore.cells import Cell

class OptimalKroneckerSumCarry(KroneckerCarry):
    def __init__(self, cell: Cell, batch_size: int, rank: int, mixing: str, tolerance: float | None = None) -> None: ...
