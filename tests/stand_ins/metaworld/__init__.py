"""A stand-in for Meta-World: its names and shapes, with a hand and a puck that are points and no physics."""
