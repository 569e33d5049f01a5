"""What differs from scikit-learn by intent, and which of its tests see it. docs/scikit-learn.md is made from this."""

OWN_TESTS = {
    "test_gradient": "calls `_loss_grad_lbfgs`, which is private: here the engine finds the gradient",
}
