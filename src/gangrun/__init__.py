"""gangrun launches and looks after machine-learning experiments on Slurm."""

__version__ = "0.1.0"
