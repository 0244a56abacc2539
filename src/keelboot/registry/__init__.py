"""Images from registries, by the OCI distribution specification 1.1; `opening` is the door of this package."""
