"""A linear regression on the ten measurements of scikit-learn's diabetes data and all their products."""

from __future__ import annotations

from sklearn.linear_model import SGDRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

pipeline = make_pipeline(
    StandardScaler(),
    PolynomialFeatures(degree=2, include_bias=False),
    StandardScaler(),
    SGDRegressor(learning_rate="constant", alpha=0.1),
)
