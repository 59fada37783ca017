"""Transforms of examples: image files to pixels, sounds to features, and random augmentation on the device."""
