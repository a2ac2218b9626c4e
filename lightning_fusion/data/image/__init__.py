"""Images: folder trees, torchvision's sets, digits."""
