"""What did happen: run directories, events, state."""
