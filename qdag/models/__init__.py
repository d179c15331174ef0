"""Models: walk-forward split, Qlib datasets on stored tables, training, tracking and point-in-time predictions."""
