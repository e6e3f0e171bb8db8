"""Study files: TOML read into frozen settings, and the training code that they name."""
