"""Role to roles: companions that a way of training needs, one small file each."""
