"""Read only: what you see."""
