"""The finish stage: makes an image of a distribution bootable, without touching the user's Containerfile."""
