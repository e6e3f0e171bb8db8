"""PyTorch models as trainers."""
