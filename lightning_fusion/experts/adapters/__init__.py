"""Models of other libraries as experts' networks."""
