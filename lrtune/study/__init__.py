"""A study: made or resumed, searched by the engine, and answered."""
