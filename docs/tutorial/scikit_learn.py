"""scikit-learn: lrtune drives ``eta0`` in minibatches, whatever schedule the recipe says."""

from __future__ import annotations

from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lrtune

X, y = load_digits(return_X_y=True)
estimator = make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss"))  # fitted once on the training part
trainer = lrtune.SklearnTrainer(estimator, X, y, metrics=("accuracy",))

if __name__ == "__main__":
    space = lrtune.Space(lr=(1e-5, 1.0), schedule=["constant", "cosine"])
    result = lrtune.tune(trainer, space, epochs=5, metric="accuracy", direction="maximize", budget=2.0, seed=0)
    best = result.best_recipe
    print(f"learning rate {best.lr:.3g} under a {best.schedule} schedule: accuracy {result.best_value:.3f}")
