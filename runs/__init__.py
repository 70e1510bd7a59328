"""The folder of a run, its provenance and the signals that stop it; uses `commons` alone."""
