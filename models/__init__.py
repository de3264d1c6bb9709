"""Neural networks: their architectures, the versioned bundle, and the scorer."""
