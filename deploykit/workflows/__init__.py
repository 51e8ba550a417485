"""Stage composition: the only package that imports several stages. `export.py` is the main workflow."""
