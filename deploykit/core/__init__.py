"""What every stage stands on: values, errors, the cache, files, provenance, ONNX files, and the data sets' loaders."""
