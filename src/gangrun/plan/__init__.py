"""What will happen: roles placed on an allocation, as data."""
