"""The client's side of a pool: which roles its job has, for each engine."""
