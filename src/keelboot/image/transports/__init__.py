"""Where images are kept, one module for each kind of place; `opening` picks the module a reference asks for."""

from keelboot.image.opened import Image, Layer
from keelboot.image.transports.opening import exists, fingerprint, open_image, open_layout

__all__ = ["Image", "Layer", "exists", "fingerprint", "open_image", "open_layout"]
