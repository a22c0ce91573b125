"""mmdetection 3.x's names: which are here under another path, and what to say of those that are not here."""
