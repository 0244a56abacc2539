"""From a Containerfile, or from packages, to a bootable image in the calling user's own container store."""
