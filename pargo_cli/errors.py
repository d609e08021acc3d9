"""What a user can put right."""


class UserError(ValueError):
    """A message that names what is wrong and the way out; a command prints it in one line and ends with status 2."""
