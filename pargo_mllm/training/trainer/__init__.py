"""The steps of a stage: the trainer, its engines and checkpoints, what it measures, and the processes that share it."""
