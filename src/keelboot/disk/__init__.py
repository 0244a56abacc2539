"""A disk as data: partition table, filesystems and formats written to a file, without any privilege."""
