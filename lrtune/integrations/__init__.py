"""Other tools that show a search: the Optuna dashboard, TensorBoard and MLflow."""
