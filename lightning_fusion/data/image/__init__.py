"""Images: folder trees, torchvision data sets, digits."""
