"""The engine: decide the next segment of training, execute it, store what it reported, until the search ends."""
