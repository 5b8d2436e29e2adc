"""The rules by which torch computes ONNX operators, one file per operator family."""
