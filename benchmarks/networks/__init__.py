"""Whether the product keeps its word on networks of every kind that people have.

| file | holds |
|---|---|
| `networks`, `zoo/` | the networks, each with its job and other samples (`entry`) |
| `written`, `random_weights` | how they are made: as text, or by torch's exporters |
| `trial` | one network through a whole job, in a process of its own |
| `judge`, `losses`, `detections` | the certificate's claims, computed anew on fresh samples |
| `standard` | the standard's own tests of its operators |
| `interface`, `constants`, `operations`, `decoding` | what else is asked of a delivered file |
"""
