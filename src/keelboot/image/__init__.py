"""What an image is: references, documents, layers, and the tree of files they add up to."""
