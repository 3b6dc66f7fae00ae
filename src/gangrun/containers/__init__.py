"""Command line to command line in a container runtime, one small file each."""
