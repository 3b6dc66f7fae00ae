"""What the user wrote: experiment files and cluster profiles."""
