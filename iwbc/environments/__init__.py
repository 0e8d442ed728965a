"""Environments to play in: how they are made and described, their spaces, reference scores, and the tasks of chance."""
