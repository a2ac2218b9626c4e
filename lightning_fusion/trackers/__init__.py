"""Tables, figures and files in the experiment trackers behind the loggers of Lightning."""
