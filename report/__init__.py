"""What a job gives, as charts and as a page: documents in, charts out; for web page, files and notebooks."""

from report.documents import Documents

__all__ = ["Documents"]
