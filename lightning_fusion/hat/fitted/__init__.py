"""Teachers of HaT that are fitted on the labels before the student is trained."""
