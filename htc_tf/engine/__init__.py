"""Everything that happens over time: training, optimisation, checkpoints, evaluation, pictures, export."""
