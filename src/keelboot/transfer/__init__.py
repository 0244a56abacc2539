"""Images from one place to another, byte for byte; `copying` is the door of this package."""
