"""What a user can put right; defined where the command line can catch it before it imports a model."""

from pargo_cli.errors import UserError

__all__ = ["UserError"]
