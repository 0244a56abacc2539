"""From an image to what a machine boots: where composefs image, objects, boot entry and disk come together."""
