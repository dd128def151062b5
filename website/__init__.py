"""Programs that make the documentation site: its links, its drawings, the output of its tutorials."""
