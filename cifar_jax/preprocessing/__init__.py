"""From uint8 images to what the network is given: resize, normalization and augmentation inside the compiled step."""
