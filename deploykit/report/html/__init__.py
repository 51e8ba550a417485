"""Values in, one self-contained page out."""
