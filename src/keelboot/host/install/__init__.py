"""Installing: an image onto a whole disk, into a filesystem made by hand, or beside a system that is there."""
