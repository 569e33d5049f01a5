"""
A pipeline of scikit-learn's, tuned
===================================

A grid search over the options of ``fastbp.sklearn.MLPClassifier``, and the loss curves of the best model.
``pip install 'fastbp[sklearn,plot]' && python examples/tuning.py``
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastbp.sklearn import MLPClassifier

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

network = MLPClassifier((64,), early_stopping=True, n_iter_no_change=5, max_iter=300, random_state=0)
grid = {"mlpclassifier__alpha": [1e-4, 1.0], "mlpclassifier__dropout": [0.0, 0.2]}
search = GridSearchCV(make_pipeline(StandardScaler(), network), grid, cv=3).fit(X_train, y_train)

best = ", ".join(f"{name.split('__')[1]} {value}" for name, value in search.best_params_.items())
print(
    f"best of {len(search.cv_results_['params'])}: {best}; accuracy on unseen digits {search.score(X_test, y_test):.3f}"
)

axes = search.best_estimator_[-1].plot_loss_curve()
axes.set(title=best, yscale="log")
plt.show()
