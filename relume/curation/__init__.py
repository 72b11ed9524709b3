"""Choosing photographs: quality, duplicates, diversity, the split by scene, and the patches cut from them."""
