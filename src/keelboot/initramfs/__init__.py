"""What runs before the root is there: a dracut module with one short POSIX script and a unit. Data, not code."""
