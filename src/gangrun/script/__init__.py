"""How: from a plan to a batch script that a person can read."""
