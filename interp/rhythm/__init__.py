"""WAAD, FAI, and the preplan-and-anchor rhythm (Paper B, section 4)."""
