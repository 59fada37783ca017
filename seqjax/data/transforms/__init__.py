"""What is done to examples on their way to a model: image files to pixels, and random augmentation on the device."""
