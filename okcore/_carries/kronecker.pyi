from okcore._carries.base import Carry
from okcore.cells import Cell

class KroneckerCarry(Carry):
    def __init__(self, cell: Cell, batch_size: int, rank: int) -> None: ...
    @property
    def rank(self) -> int: ...
