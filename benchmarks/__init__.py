"""How fast NucEL is, beside other ways to do the same work."""
