"""What an image is made of: its distribution's packages, as documents that others read."""
