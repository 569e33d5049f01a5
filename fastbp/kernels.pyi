from typing import Literal

ABI: int
api: object

def address(name: str, dtype: Literal["float32", "float64"], *, abi: int) -> int: ...
