"""Contents by their digest: in chunks of 1 MiB in the database, or in parts beside it.

Functions here open their own short transactions: a transaction that lasts as long as a client sends, or as 500 MB
take, would hold back everybody else on SQLite and the cleaning of tables on PostgreSQL.
"""

from app.store.blobs.reading import open_blob_to_file, read_blob, read_bytes, read_json, read_range
from app.store.blobs.references import BlobDamaged, BlobMissing, BlobRef
from app.store.blobs.removal import remove_abandoned, remove_blob
from app.store.blobs.rows import find_blob, keep_blob
from app.store.blobs.writing import CHUNK_BYTES, CHUNKS_PER_TRANSACTION, write_bytes, write_stream

__all__ = [
    "CHUNKS_PER_TRANSACTION",
    "CHUNK_BYTES",
    "BlobDamaged",
    "BlobMissing",
    "BlobRef",
    "find_blob",
    "keep_blob",
    "open_blob_to_file",
    "read_blob",
    "read_bytes",
    "read_json",
    "read_range",
    "remove_abandoned",
    "remove_blob",
    "write_bytes",
    "write_stream",
]
