"""One job, from the upload to the certificate: the stages, what they share, and what they deliver."""
