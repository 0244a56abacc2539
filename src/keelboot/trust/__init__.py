"""Who made an image, and whether that is enough: signatures, policies, and the decision."""
