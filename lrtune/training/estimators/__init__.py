"""scikit-learn estimators as trainers."""
