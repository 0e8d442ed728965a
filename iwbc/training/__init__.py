"""Training of one or several seeds: the loop, the reference policy, what is trained, and how far it has moved."""
