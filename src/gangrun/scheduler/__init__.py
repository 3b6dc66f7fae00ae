"""The only layer that talks to Slurm."""
