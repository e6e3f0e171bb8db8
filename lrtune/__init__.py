"""lrtune finds the learning rate."""
