"""composefs: a tree as an EROFS image and back, and the fs-verity digests that name both content and image."""
