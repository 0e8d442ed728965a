"""Layouts of robot-learning datasets, a file for each that is read or written."""
