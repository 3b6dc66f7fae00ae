"""Batch scripts that somebody wrote: what they ask sbatch for, and faults that such scripts often have."""
