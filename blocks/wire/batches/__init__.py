"""Provider batch APIs: many requests sent together, answered within a day at a lower price. Pure functions."""
