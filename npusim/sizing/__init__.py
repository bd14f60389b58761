"""Which chip to build: sweeps over chip, model and serving parameters, and the inverse question."""
