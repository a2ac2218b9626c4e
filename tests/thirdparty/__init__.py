"""A package of somebody else, who uses the library by class_path and by subclassing."""
