"""Bodies and answers about secrets. No answer has a field for a value."""

from __future__ import annotations

from pydantic import BaseModel, Field, SecretStr

from flowmason_serve_apps.studio.models.common import Body


class SecretValue(Body):
    """What a secret is set to."""

    value: SecretStr = Field(description="4 bytes to 64 KiB of text. It is never shown again.")


class SecretOut(BaseModel):
    """What may be known of a secret."""

    name: str = Field(description="As it is kept: lower case, `_` for `-` and `.`.")
    version: int = Field(description="Rises by one whenever it is set.")
    versions: int = Field(description="How many are kept, those that nothing uses any more included.")
    set_by: str
    set_at: str
    key_id: str = Field(description="The master key that it is sealed under.")


class SecretPage(BaseModel):
    """Secrets, by name."""

    items: list[SecretOut]
    next_cursor: str | None


class RotatedOut(BaseModel):
    """What a rotation did."""

    rewrapped: int = Field(description="Values that were brought under the current master key.")
    dropped: int = Field(description="Older versions that were deleted.")
