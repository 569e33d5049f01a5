"""Updates of a parameter vector in place, by optimizers that keep the state.

An update is one kernel call over one flat vector. It changes the parameters and the state, never the
gradient. The L2 term `weight_decay` acts on the gradient, as in PyTorch's ``SGD`` and ``Adam``: g + λw takes
the place of g; that of ``AdamW``, ``Lion`` and ``Muon`` shrinks the parameters themselves. In a network it leaves the
biases alone, unless `decay_biases` asks for them.
"""

from fastbp.optimizers.adagrad import Adagrad
from fastbp.optimizers.adam import Adam, AdamW
from fastbp.optimizers.base import Optimizer, Rate
from fastbp.optimizers.lion import Lion
from fastbp.optimizers.muon import Muon
from fastbp.optimizers.rmsprop import RMSprop
from fastbp.optimizers.sgd import SGD

__all__ = ["OPTIMIZERS", "SGD", "Adagrad", "Adam", "AdamW", "Lion", "Muon", "Optimizer", "RMSprop", "Rate"]

OPTIMIZERS = frozenset((SGD, RMSprop, Adagrad, Adam, AdamW, Lion, Muon))
"""Those whose updates a network makes."""
