"""The store: objects, layers, images and references in one directory; docs/formats/store.md is its page."""
