"""The budget methods, one file each."""
