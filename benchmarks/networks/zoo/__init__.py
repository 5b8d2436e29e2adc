"""Networks by what people use them for, or by how their files were written; each file registers builders."""
