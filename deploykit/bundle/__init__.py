"""The bundle: manifest, schema, golden vectors; written whole, verified before use."""
