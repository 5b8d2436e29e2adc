"""What the API takes and answers. Unknown fields are refused; what is not supported yet is an error that says so."""
