"""Networks as ONNX graphs: what :meth:`fastbp.MLP.to_onnx` and :meth:`fastbp.MLP.from_onnx` do.

Design decisions:

A. Standard operators wherever they mean exactly what fastbp computes, of the oldest set that has them: 13; 18 for mish and 20
   for gelu. Attributes of ONNX are float32, and ONNX Runtime has no float64 kernel for some operators: what float64 lacks are
   functions of the model, in the domain ``fastbp``, made of elementary operators.
B. A graph is read as a *term*: each tensor is an expression in ``z``, the linear outputs of the last layer before it. An
   activation, however it is spelled, is a term of the table in `forms`; the first node whose term occurs in no entry of that
   table is the one that an error names.
C. A file is read as if an enemy had written it: no data but its own, no array before its size is known to be in the file.
"""

from fastbp.onnx.reader import Graph, read
from fastbp.onnx.writer import write

__all__ = ["Graph", "read", "write"]
