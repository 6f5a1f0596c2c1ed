"""Export: a trained network as files that need this library no more."""
