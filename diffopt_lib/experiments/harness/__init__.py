"""What every experiment gets: a run, progress and checkpoints, several processes, and a result with its provenance."""
