"""The learning-rate range test: one short training with a rising rate, and what its curve can say."""
