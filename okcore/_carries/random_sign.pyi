from okcore._carries.kronecker import KroneckerCarry
from okcore.cells import Cell

class RandomSignCarry(KroneckerCarry):
    def __init__(self, cell: Cell, batch_size: int, copies: int) -> None: ...
