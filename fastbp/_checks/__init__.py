"""The only place where input is checked: what leaves it is what the kernels read.

A module for each kind of thing: `scalars`, `arrays`, `targets`, `layers`, and for what they alone need `optimizers`,
`networks`, `training` and `ranks`; what is not NumPy's becomes so in `foreign`. Their decisions:

A. An error is one sentence, "<argument>: got <what came>, expected <what>". A wrong kind of thing (type,
   dtype) is a ``TypeError``; a wrong value, shape or place in memory is a ``ValueError``.
B. Attributes only. Values are checked where they become addresses (class indices), where a column says that some are missing,
   and where a network learns from them or decides on them (`networks`).
C. An input is copied only where a kernel could not read it: foreign byte order, unaligned, strided in its
   last axis, in columns, another dtype where a cast is promised. Rows may lie any distance apart, in any direction.
D. An output is never copied: it is written as it stands or refused, before the first byte is written.
E. Two arrays overlap if one byte belongs to both: the columns of one buffer may be input and output.

Dimension letters: N examples, I inputs, O outputs, C classes.
"""

from fastbp._checks import networks, optimizers, ranks, training
from fastbp._checks.arrays import (
    FLOATS,
    INT64,
    apart,
    array,
    blocks,
    dimensions,
    examples,
    finite,
    floats,
    floats_like,
    integers,
    last_axis,
    matrix,
    ndarray,
    output,
    reals,
    rows,
    shape,
    vector,
    writable,
)
from fastbp._checks.layers import layer_bias, layer_delta, layer_weight, slope_source
from fastbp._checks.scalars import (
    DECAY_RATE,
    FRACTION,
    INT64_MAX,
    NOT_NEGATIVE,
    POSITIVE,
    PRECISIONS,
    Interval,
    choice,
    flag,
    instance,
    integer,
    memory,
    number,
    path,
    positive_in,
    precision,
    threads,
)
from fastbp._checks.targets import (
    IGNORE_INDEX,
    class_indices,
    class_targets,
    elementwise,
    label_to_ignore,
    output_weights,
    softmax_arguments,
    some_classes,
    target_rows,
    weights,
    whole_labels,
)

__all__ = [
    "DECAY_RATE", "FLOATS", "FRACTION", "IGNORE_INDEX", "INT64", "INT64_MAX", "NOT_NEGATIVE", "POSITIVE",
    "PRECISIONS", "Interval", "apart", "array", "blocks", "choice", "class_indices", "class_targets", "dimensions",
    "elementwise", "examples", "finite", "flag", "floats", "floats_like", "instance", "integer",
    "integers", "label_to_ignore", "last_axis", "layer_bias", "layer_delta", "layer_weight", "matrix",
    "memory", "ndarray", "networks", "number", "optimizers", "output", "output_weights", "path", "positive_in", "precision",
    "ranks", "reals", "rows", "shape", "slope_source", "softmax_arguments", "some_classes", "target_rows",
    "threads", "training", "vector", "weights", "whole_labels", "writable",
]  # fmt: skip
