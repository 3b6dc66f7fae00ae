"""Replica to command line, one small file each."""
