"""What a key may do in its project."""

from __future__ import annotations

from enum import StrEnum

from app.errors import AppError


class Role(StrEnum):
    """From the least to the most: each may do what those before it may."""

    VIEWER = "viewer"
    """May read."""
    MEMBER = "member"
    """May also upload, and make, stop and delete jobs."""
    ADMIN = "admin"
    """May also make and revoke keys, and read the audit log."""

    def includes(self, needed: Role) -> bool:
        """Whether this role may do what `needed` may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)

    def require(self, needed: Role) -> None:
        """Raise `role_insufficient` unless this role includes `needed`."""
        if not self.includes(needed):
            raise AppError(
                "role_insufficient",
                f"this call needs a key with the role {needed}, and this one is a {self}; ask an admin of the project "
                "for another key",
            )
