"""Stage `curate`: photographs are scored, grouped by scene, split and cut into training patches."""
